"""Runs a command and appends what it took to a file of JSON lines.

usage: measure.py RESULTS NAME COMMAND...

A line is {"name", "secs", "cpu_secs", "peak_mib"}: wall time, the CPU time of all threads, and the most memory that was
resident. The command's output goes to RESULTS with the ending .log; if it fails, that is shown. Linux only.
"""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

results, name, command = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
log = results.with_suffix(".log")
with open(log, "ab") as out:
    started = time.monotonic()
    code = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, check=False).returncode
    secs = time.monotonic() - started
used = resource.getrusage(resource.RUSAGE_CHILDREN)
if code != 0:
    tail = log.read_text(errors="replace").splitlines()[-20:]
    sys.exit("\n".join([*tail, f"error: {' '.join(command)} ended with exit code {code}"]))
line = {
    "name": name,
    "secs": round(secs, 2),
    "cpu_secs": round(used.ru_utime + used.ru_stime, 2),
    "peak_mib": round(used.ru_maxrss / 1024, 1),
}
with open(results, "a", encoding="utf-8") as out:
    out.write(json.dumps(line) + "\n")
