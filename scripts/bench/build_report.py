"""Says what builds of stand-ins took, and what they found of what was planted.

usage: build_report.py speed RESULTS NAME RUN         rows and tokens a CPU-second of the measured build NAME, in folder RUN
       build_report.py duplicates RUN TRUTH           recall of what is planted (truth.json), and clean rows left out
       build_report.py memory RESULTS NAME ROWS NAME ROWS   how memory grows from the first build to the second
       build_report.py notes RESULTS NAME FILE        MB of the file a second

RESULTS is what measure.py writes.
"""

import json
import sys
from pathlib import Path


def measured(results, name):
    lines = [json.loads(line) for line in Path(results).read_text().splitlines()]
    return [line for line in lines if line["name"] == name][-1]


def shown(took):
    return f"{took['name']}: {took['secs']:.1f} s, {took['cpu_secs']:.1f} CPU-s, {took['peak_mib']:.0f} MiB"


def counts(run):
    return json.loads((Path(run) / "data" / "manifest.json").read_text())["counts"]


def speed(results, name, run):
    took, count = measured(results, name), counts(run)
    read = sum(n for key, n in count.items() if key.startswith("source.") and key.endswith(".read"))
    samples, cpu = count["train"] + count["validation"], took["cpu_secs"]
    print(f"{shown(took)}; {read} rows read, {read / cpu:.0f} a CPU-s; {samples} samples, {samples / cpu:.0f} a CPU-s")
    if "tokens" in count:
        print(f"  {count['tokens']} tokens ({count['tokens'] / samples:.0f} a sample), {count['tokens'] / cpu:.0f} a CPU-s")


def duplicates(run, truth):
    truth = json.loads(Path(truth).read_text())
    reasons = {}
    with open(Path(run) / "data" / "dropped.jsonl", encoding="utf-8") as lines:
        for line in lines:
            dropped = json.loads(line)
            reasons[dropped["id"]] = dropped["reason"]
    planted = set()
    for kind, wanted in (("exact", ("exact duplicate",)), ("near", ("near duplicate", "exact duplicate")), ("item", ("evaluation item",))):
        ids = truth[kind]
        planted.update(ids)
        found = sum(reasons.get(sample) in wanted for sample in ids)
        missed = [sample for sample in ids if reasons.get(sample) not in wanted]
        share = f"{100 * found / len(ids):.2f} %" if ids else "none planted"
        print(f"{kind}: {found} of {len(ids)} found ({share})" + (f"; not found: {', '.join(missed[:5])}" if missed else ""))
    rows = sum(truth["rows"].values()) - len(planted)
    wrongly = {}
    for sample, reason in reasons.items():
        if sample not in planted:
            wrongly.setdefault(reason, []).append(sample)
    if not wrongly:
        print(f"clean: none of {rows} left out")
    for reason, samples in wrongly.items():
        print(f"clean: {len(samples)} of {rows} left out as {reason}: {', '.join(samples[:5])}")


def memory(results, small_name, small_rows, large_name, large_rows):
    small, large = measured(results, small_name), measured(results, large_name)
    rows = int(large_rows) - int(small_rows)
    growth = (large["peak_mib"] - small["peak_mib"]) * 2**20 / rows
    print(f"{shown(small)}\n{shown(large)}\n  {growth:.0f} bytes more a row")


def notes(results, name, file):
    took, size = measured(results, name), Path(file).stat().st_size / 1e6
    print(f"{shown(took)}; a file of {size:.0f} MB: {size / took['secs']:.0f} MB/s of wall time, {size / took['cpu_secs']:.0f} MB a CPU-s, over all passes")


{"speed": speed, "duplicates": duplicates, "memory": memory, "notes": notes}[sys.argv[1]](*sys.argv[2:])
