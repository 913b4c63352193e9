"""The runs and the table of scripts/bench-merge.

python merge_bench.py MEDTUNE MODELS 1b|13b ROUNDS
"""

import os
import shutil
import statistics
import subprocess
import sys
import time

medtune, models, size, rounds = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
base, adapter, out = (os.path.join(models, name) for name in ("base", "adapter", "out"))
peer = os.path.join(os.path.dirname(os.path.abspath(__file__)), "merge_peer.py")
merge = [medtune, "merge", "--base", base, "--adapter", adapter, "--into", out, "--json", "--verify"]
COMMANDS = {
    "cp": ["cp", "-r", base, out],
    "medtune merge": [*merge, "tensors"],
    "medtune merge, logits too": [*merge, "standard"],
    "medtune merge --verify full": [*merge, "full"],
}
if size == "1b":
    COMMANDS["PEFT"] = [sys.executable, peer, base, adapter, out]


def drop_caches():
    """Whether the page cache could be dropped."""
    os.sync()
    try:
        with open("/proc/sys/vm/drop_caches", "w") as file:
            file.write("3")
        return True
    except OSError:
        return False


def busy():
    """Seconds that all processors have worked."""
    fields = [int(x) for x in open("/proc/stat").readline().split()[1:]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def run(command):
    shutil.rmtree(out, ignore_errors=True)
    cold = drop_caches()
    before, began = busy(), time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    errors = child.stderr.read()
    _, status, used = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)} failed\n{errors}")
    written = time.monotonic() - began
    os.sync()
    secs, cpu = time.monotonic() - began, used.ru_utime + used.ru_stime
    other = (busy() - before - cpu) / secs
    return {"secs": secs, "unsynced": written, "cpu": cpu, "peak_mib": used.ru_maxrss / 1024, "cold": cold, "other": other}


results = {name: [] for name in COMMANDS}
for number in range(rounds):
    for name, command in COMMANDS.items():
        results[name].append(run(command))
        last = results[name][-1]
        print(f"round {number + 1}: {name}: {last['secs']:.1f} s, {last['peak_mib']:.0f} MiB", file=sys.stderr)
shutil.rmtree(out, ignore_errors=True)

median = {name: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for name, runs in results.items()}
total = sum(os.path.getsize(os.path.join(base, file)) for file in os.listdir(base))
copy = median["cp"]["secs"]
print(f"{total / 1e9:.2f} GB, {rounds} rounds, medians; caches {'dropped before each run' if median['cp']['cold'] else 'WARM: not root'}")
print(f"{'':30}{'s':>8}{'before sync':>13}{'GB/s':>7}{'of cp':>7}{'CPU s':>8}{'MiB':>8}{'other cores':>13}")
for name, m in median.items():
    print(f"{name:30}{m['secs']:8.1f}{m['unsynced']:13.1f}{total / 1e9 / m['secs']:7.2f}{copy / m['secs']:7.2f}{m['cpu']:8.1f}{m['peak_mib']:8.0f}{m['other']:13.2f}")
if "PEFT" in median:
    ours, theirs = median["medtune merge"], median["PEFT"]
    print(f"PEFT / medtune: {theirs['secs'] / ours['secs']:.2f} times the time, {theirs['peak_mib'] / ours['peak_mib']:.1f} times the memory")
