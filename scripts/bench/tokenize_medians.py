"""The medians of scripts/bench-tokenize's runs, and medtune's ratios.

usage: tokenize_medians.py RESULTS.jsonl
"""

import json
import statistics
import sys

runs = {}
for line in open(sys.argv[1]):
    run = json.loads(line)
    runs.setdefault(run["what"], []).append(run)


def median(what, key):
    return statistics.median(run[key] for run in runs[what])


print(f"\n{'median of ' + str(len(runs['map'])):24} {'rows/CPU-s':>12} {'tokens/CPU-s':>14} {'wall s':>8}   medtune is")
ours = median("medtune, 2 thread(s)", "rows_per_cpu_sec")
for what in runs:
    ratio = "" if what.startswith("medtune") else f"{ours / median(what, 'rows_per_cpu_sec'):8.1f} x"
    row = [f"{median(what, key):,.0f}" for key in ("rows_per_cpu_sec", "tokens_per_cpu_sec")]
    print(f"{what:24} {row[0]:>12} {row[1]:>14} {median(what, 'wall_secs'):8.1f}   {ratio}")

# medtune's last token of a turn is taught and the line break behind it is not, but both write both: the totals agree.
totals = {run["tokens"] for several in runs.values() for run in several}
if len(totals) != 1:
    sys.exit(f"error: the runs gave different numbers of tokens: {sorted(totals)}")
