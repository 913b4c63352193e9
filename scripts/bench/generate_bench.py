"""Runs what scripts/bench-generate compares, in alternation, and prints medians and ratios.

usage: generate_bench.py ANSWER_SPEED MODEL [ROUNDS] [--work FOLDER] [--out FILE] [--only REGEX] [--new-tokens N] [--limit SECS]
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
THREADS = "2"
# Of a log-likelihood, f32 on both sides.
SCORES_AGREE = 2e-3
GOAL = 1.5


def bf16_is_fast():
    """Whether torch has bf16 instructions to use; without them it emulates, many times slower than f32."""
    return bool(re.search(r"\b(avx512_bf16|amx_bf16)\b", Path("/proc/cpuinfo").read_text()))


def command(side, what, precision, args):
    work = args.work
    sizes = {"generate, batch 1": ["1"], "generate, batch 8": ["8"], "score": []}[what]
    sizes += [str(args.new_tokens)] if sizes else []
    kind = what.split(",")[0]
    file = str(work / ("prompts.jsonl" if kind == "generate" else "choices.jsonl"))
    if side == "medtune":
        return [str(args.answer_speed), str(args.model), precision, kind, file, *sizes]
    return [sys.executable, str(HERE / "generate_peer.py"), kind, str(args.model), precision, file, *sizes]


def run(side, what, precision, args):
    env = os.environ | {"RAYON_NUM_THREADS": THREADS, "OMP_NUM_THREADS": THREADS}
    line = command(side, what, precision, args)
    try:
        done = subprocess.run(line, capture_output=True, text=True, env=env, timeout=args.limit, check=False)
    except subprocess.TimeoutExpired:
        return None
    if done.returncode != 0:
        sys.exit(f"{done.stderr[-3000:]}\nerror: {' '.join(line)} ended with exit code {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def amount(result):
    """Tokens generated, or options scored."""
    return sum(len(row) for row in result.get("generated", result.get("scores")))


def compare_tokens(what, ours, theirs):
    """Greedy tokens are the same up to where two tokens tie but for rounding."""
    same = sum(a == b for a, b in zip(ours, theirs))
    firsts = [next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), None) for a, b in zip(ours, theirs)]
    parted = [at for at in firsts if at is not None]
    where = f"; the others part after {', '.join(map(str, sorted(parted)))} tokens" if parted else ""
    print(f"{what}: the same tokens for {same} of {len(ours)} prompts{where}")
    if 0 in parted:
        return [f"{what}: a first token differs"]
    return []


def compare_scores(what, ours, theirs):
    off = max(abs(a - b) for one, other in zip(ours, theirs) for a, b in zip(one, other))
    same = sum(max(range(len(a)), key=a.__getitem__) == max(range(len(b)), key=b.__getitem__) for a, b in zip(ours, theirs))
    print(f"{what}: log-likelihoods within {off:.1e}, the same best option for {same} of {len(ours)} items")
    if off > SCORES_AGREE or same < len(ours):
        return [f"{what}: the scores differ"]
    return []


def main():
    parser = argparse.ArgumentParser(usage="scripts/bench-generate MODEL_DIR [ROUNDS] [option...]")
    parser.add_argument("answer_speed", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("rounds", type=int, nargs="?", default=3)
    parser.add_argument("--work", type=Path, default=Path("peers-work/bench-generate"))
    parser.add_argument("--out", type=Path, help="where a line of JSON a run goes")
    parser.add_argument("--only", default="", help="rows whose name matches this expression")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--limit", type=int, default=600, help="seconds a run may take")
    args = parser.parse_args()
    precisions = {"medtune": ["f32", "bf16"], "transformers": ["f32"] + ["bf16"] * bf16_is_fast()}
    whats = ["generate, batch 1", "generate, batch 8", "score"]
    rows = [(what, side, precision) for what in whats for side in precisions for precision in precisions[side]]
    rows = [row for row in rows if re.search(args.only, f"{row[0]}: {row[1]} {row[2]}")]
    out = args.out or args.work / "results.jsonl"
    out.write_text("")
    if not bf16_is_fast():
        print("this processor has no bf16 instructions: transformers is run in f32 only", file=sys.stderr)
    runs = {}
    for number in range(args.rounds):
        for row in rows:
            result = run(row[1], row[0], row[2], args)
            if result is None:
                print(f"{row}: not done within {args.limit} s", file=sys.stderr)
                continue
            rate = amount(result) / result["secs"]
            runs.setdefault(row, []).append(result | {"rate": rate})
            print(f"round {number + 1}: {row[0]}: {row[1]} {row[2]}: {rate:.1f}/s", file=sys.stderr, flush=True)
            with open(out, "a", encoding="utf-8") as lines:
                lines.write(json.dumps({"what": row[0], "side": row[1], "precision": row[2], "round": number + 1, "rate": rate, **result}) + "\n")

    median = {row: statistics.median(one["rate"] for one in several) for row, several in runs.items()}
    print(f"\n{'':44} {'median/s':>10} {'range':>18} {'peak MiB':>9}   (tokens generated, options scored)")
    for row, several in runs.items():
        rates, peak = [one["rate"] for one in several], statistics.median(one["peak_mib"] for one in several)
        spread = f"{min(rates):.1f} to {max(rates):.1f}"
        print(f"{f'{row[0]}: {row[1]} {row[2]}':44} {median[row]:10.1f} {spread:>18} {peak:9,.0f}")
    print()
    wrong = []
    for what in whats:
        ours = [row for row in median if row[:2] == (what, "medtune")]
        theirs = [row for row in median if row[:2] == (what, "transformers")]
        for row in ours:
            # Each precision against its own, and all against the fastest.
            for other in theirs:
                print(f"{what}: {median[row] / median[other]:.2f} x (goal >= {GOAL}): medtune {row[2]} / transformers {other[2]}")
        a, b = runs.get((what, "medtune", "f32")), runs.get((what, "transformers", "f32"))
        if a and b:
            compare, key = (compare_scores, "scores") if what == "score" else (compare_tokens, "generated")
            wrong += compare(f"{what}, f32", a[0][key], b[0][key])
    if wrong:
        sys.exit("\n".join(f"error: {line}" for line in wrong))


main()
