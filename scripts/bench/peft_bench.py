"""Runs what scripts/bench-peft compares, in alternation, and prints medians and ratios.

usage: peft_bench.py MEDTUNE MODEL [ROUNDS [STEPS]] [--out FILE] [--work FOLDER] [--only REGEX] [--without REGEX] [--limit SECS]
"""

import argparse
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
THREADS = 2
LEARNING_RATE = {"lora": 2e-4, "full": 2e-5}
LOSSES_AGREE = 1e-4
# For bf16 in torch where the processor has none: longer says nothing more.
EMULATED_LIMIT_SECS = 180


@dataclass(frozen=True)
class Setting:
    """One row of the table."""

    side: str
    workload: str
    method: str = "lora"
    precision: str = "f32"
    layout: str = ""
    dropout: float = 0.0
    recompute: bool = False
    compiled: bool = False
    # glibc keeps freed memory, as medtune asks it to.
    keeps_memory: bool = False
    # medtune: [train] gradients, where it is not the default.
    gradients: str = ""

    @property
    def label(self):
        words = [self.side, self.workload, self.method, self.precision, self.layout]
        words += [f"dropout {self.dropout}"] * (self.dropout > 0) + ["recompute"] * self.recompute
        words += ["compiled"] * self.compiled + ["malloc keeps"] * self.keeps_memory
        words += [f"{self.gradients} gradients"] * bool(self.gradients)
        return " ".join(word for word in words if word)

    @property
    def group(self):
        return self.workload, self.method


def medtune(workload, **more):
    return Setting("medtune", workload, **more)


def torch(workload, layout="padded", **more):
    return Setting("torch", workload, layout=layout, **more)


SETTINGS = [
    medtune("instructions"),
    torch("instructions"),
    torch("instructions", "packed"),
    torch("instructions", keeps_memory=True),
    medtune("instructions", dropout=0.05),
    torch("instructions", dropout=0.05),
    torch("instructions", "packed", dropout=0.05),
    medtune("instructions", recompute=True),
    torch("instructions", recompute=True),
    torch("instructions", "packed", recompute=True),
    medtune("instructions", precision="bf16"),
    torch("instructions", precision="autocast"),
    torch("instructions", "packed", precision="autocast"),
    torch("instructions", precision="bf16"),
    torch("instructions", "packed", precision="bf16"),
    medtune("instructions", precision="bf16", dropout=0.05),
    medtune("instructions", precision="bf16", recompute=True),
    torch("instructions", precision="bf16", compiled=True),
    medtune("documents"),
    torch("documents", "packed"),
    medtune("documents", recompute=True),
    torch("documents", "packed", recompute=True),
    medtune("documents", precision="bf16"),
    torch("documents", "packed", precision="autocast"),
    torch("documents", "packed", precision="bf16"),
    medtune("instructions", method="full"),
    medtune("instructions", method="full", gradients="per-layer"),
    torch("instructions", method="full"),
    torch("instructions", "packed", method="full"),
    medtune("documents", method="full"),
    medtune("documents", method="full", gradients="per-layer"),
    torch("documents", "packed", method="full"),
]


def bf16_is_fast():
    """Whether torch has bf16 instructions to use; without them it emulates, many times slower than f32."""
    try:
        return bool(re.search(r"\b(avx512_bf16|amx_bf16)\b", Path("/proc/cpuinfo").read_text()))
    except OSError:
        return True


class OtherLoad:
    """How many cores other processes kept busy meanwhile (Linux)."""

    @staticmethod
    def now():
        fields = [int(n) for n in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        own = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        busy = (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")
        return time.monotonic(), busy - sum(one.ru_utime + one.ru_stime for one in own)

    def __enter__(self):
        self.start = self.now()
        return self

    def __exit__(self, *_):
        (start, busy), (end, busy_now) = self.start, self.now()
        self.cores = round(max(0.0, busy_now - busy) / (end - start), 2)


@dataclass
class Paths:
    medtune: Path
    model: Path
    work: Path


def run_medtune(setting, steps, paths, limit):
    """The steps, the peak in MiB, and why there are none."""
    run = paths.work / "run"
    shutil.rmtree(run, ignore_errors=True)
    sets = {
        "model.path": json.dumps(str(paths.model)),
        "model.dtype": json.dumps(setting.precision),
        "train.method": json.dumps("full" if setting.method == "full" else "adapter"),
        "train.max_steps": steps,
        "train.learning_rate": LEARNING_RATE[setting.method],
        "train.recompute": json.dumps("full" if setting.recompute else "none"),
    }
    if setting.method == "lora":
        sets["model.adapter"] = json.dumps(str(paths.work / "adapter"))
        sets |= {"adapter.lora.rank": 8, "adapter.lora.alpha": 16.0, "adapter.lora.dropout": setting.dropout}
        sets["adapter.lora.target_modules"] = '"all-linear"'
    if setting.gradients:
        sets["train.gradients"] = json.dumps(setting.gradients)
    recipe = HERE / f"{setting.workload}.toml"
    command = [paths.medtune, "train", recipe, "--out", run, "--data-root", paths.work]
    command += [word for key, value in sets.items() for word in ("--set", f"{key}={value}")]
    env = os.environ | {"RAYON_NUM_THREADS": str(THREADS)}
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return [], None, f"not done within {limit} s"
    if done.returncode != 0:
        if setting.gradients and "gradients" in done.stderr:
            return [], None, "this medtune has no train.gradients"
        sys.exit(f"error: {setting.label} ended with exit code {done.returncode}\n{done.stdout}{done.stderr}")
    reports = [json.loads(line) for line in (run / "train" / "steps.jsonl").read_text().splitlines()]
    for report in reports:
        report["secs"] = report["tokens"] / report["tokens_per_sec"]
    product = run / ("model" if setting.method == "full" else "adapter")
    peak = json.loads((product / "measured.json").read_text())["peak_memory_bytes"] / 2**20
    shutil.rmtree(run)
    return reports, peak, None


def run_torch(setting, steps, paths, limit):
    command = [sys.executable, HERE / "peft_peer.py", "train", paths.model, paths.work, "--workload", setting.workload]
    command += ["--method", setting.method, "--layout", setting.layout, "--precision", setting.precision]
    command += ["--dropout", str(setting.dropout), "--steps", str(steps), "--threads", str(THREADS)]
    command += ["--learning-rate", str(LEARNING_RATE[setting.method])]
    command += ["--recompute"] * setting.recompute + ["--compile"] * setting.compiled
    env = os.environ | {"OMP_NUM_THREADS": str(THREADS)}
    if setting.keeps_memory:
        env |= {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 30)}
    with open(paths.work / "torch.log", "w", encoding="utf-8") as log:
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=log, text=True, env=env, timeout=limit, check=False)
        except subprocess.TimeoutExpired as stopped:
            # What it had printed, which is bytes here; its peak is not known.
            reports = [json.loads(line) for line in (stopped.stdout or b"").decode().splitlines()]
            return reports, None, None if reports else f"no step within {limit} s"
    if done.returncode != 0:
        tail = (paths.work / "torch.log").read_text(errors="replace").splitlines()[-20:]
        sys.exit("\n".join([*tail, f"error: {setting.label} ended with exit code {done.returncode}"]))
    *reports, last = [json.loads(line) for line in done.stdout.splitlines()]
    return reports, last["peak_mib"], None


class Results:
    """Every run of every setting."""

    def __init__(self, settings):
        self.runs = {setting: [] for setting in settings}
        self.missing = {}

    def add(self, setting, reports, peak, load):
        # The first step warms up; where there is only one, it has to do.
        timed = reports[1:] or reports
        speed = sum(r["tokens"] for r in timed) / sum(r["secs"] for r in timed)
        self.runs[setting].append({"tokens_per_sec": speed, "peak_mib": peak, "other_load": load, "reports": reports})

    def values(self, setting, key):
        return [run[key] for run in self.runs[setting] if run[key] is not None]

    def median(self, setting, key):
        values = self.values(setting, key)
        return statistics.median(values) if values else None

    def measured(self, **wanted):
        """The measured settings with these fields."""
        return [s for s, runs in self.runs.items() if runs and all(getattr(s, k) == v for k, v in wanted.items())]

    def reports(self, setting):
        return self.runs[setting][0]["reports"]


def table(results):
    print(f"\n{'':62} {'real tokens/s: median':>22} {'range':>15} {'peak MiB':>9} {'other load':>11}")
    for setting, runs in results.runs.items():
        if not runs:
            print(f"{setting.label:62} {results.missing.get(setting, 'not run')}")
            continue
        speeds, peak = results.values(setting, "tokens_per_sec"), results.median(setting, "peak_mib")
        spread = f"{min(speeds):.0f} to {max(speeds):.0f}"
        steps = "" if len(runs[0]["reports"]) > 1 else "  (one step, warm-up included)"
        peak = "-" if peak is None else f"{peak:,.0f}"
        load = max(results.values(setting, "other_load"))
        print(f"{setting.label:62} {statistics.median(speeds):22.1f} {spread:>15} {peak:>9} {load:11.2f}{steps}")


def curves(results):
    """Losses and gradient norms side by side: a fast run that learns nothing is no result."""
    print("\nloss and gradient norm of each step (with dropout, and where packed rows see each other, they differ by design)")
    for setting, runs in results.runs.items():
        if runs:
            reports = results.reports(setting)
            for label, what in ((setting.label, "loss"), ("", "grad_norm")):
                print(f"{label:62} {what:9} {' '.join(format(report[what], '.4f') for report in reports)}")


def shares(results):
    for workload in dict.fromkeys(s.workload for s in results.measured()):
        reports = results.reports(results.measured(workload=workload)[0])
        tokens, targets = sum(r["tokens"] for r in reports), sum(r["target_tokens"] for r in reports)
        segments = len(reports) * (4 if workload == "instructions" else 1)
        print(f"{workload}: {tokens / segments:.0f} tokens a segment, {100 * targets / tokens:.0f} % of them targets")


def best(results, settings):
    return max(settings, key=lambda s: results.median(s, "tokens_per_sec"), default=None)


def least(results, settings):
    known = [s for s in settings if results.median(s, "peak_mib") is not None]
    return min(known, key=lambda s: results.median(s, "peak_mib"), default=None)


def ratio(results, what, key, ours, theirs, goal):
    """One line; `goal` is what the project wants of the ratio."""
    if ours is None or theirs is None:
        return
    value = results.median(ours, key) / results.median(theirs, key)
    unit = "tokens/s" if key == "tokens_per_sec" else "peak memory"
    print(f"{what}: {value:.2f} x the {unit} (goal {goal}): {ours.label} / {theirs.label}")


def ratios(results):
    print()
    for workload in ("instructions", "documents"):
        def both(**wanted):
            found = [results.measured(side=side, workload=workload, **wanted) for side in ("medtune", "torch")]
            return found[0], [s for s in found[1] if not s.keeps_memory]

        for dropout in (0.0, 0.05):
            ours, theirs = both(method="lora", dropout=dropout)
            eager, compiled = [s for s in theirs if not s.compiled], [s for s in theirs if s.compiled]
            name = f"LoRA, {workload}, dropout {dropout:g}"
            ratio(results, f"{name}, fastest eager", "tokens_per_sec", best(results, ours), best(results, eager), ">= 1.6")
            ratio(results, f"{name}, torch.compile", "tokens_per_sec", best(results, ours), best(results, compiled), ">= 1.4")
            ours, theirs = both(method="lora", dropout=dropout, precision="f32", recompute=False)
            ratio(results, f"{name}, f32", "tokens_per_sec", best(results, ours), best(results, theirs), ">= 1.5")
            keeping = results.measured(workload=workload, dropout=dropout, keeps_memory=True)
            ratio(results, f"{name}, f32, malloc keeping freed memory", "tokens_per_sec", best(results, ours), best(results, keeping), ">= 1.5")
        for recompute in (False, True):
            name = f"LoRA, {workload}{', recompute' * recompute}"
            for precision, peers in (("f32", ("f32",)), ("bf16", ("autocast", "bf16"))):
                ours, theirs = both(method="lora", dropout=0.0, recompute=recompute, compiled=False)
                ours = [s for s in ours if s.precision == precision]
                theirs = [s for s in theirs if s.precision in peers]
                ratio(results, f"{name}, {precision}", "peak_mib", least(results, ours), least(results, theirs), "<= 0.5")
        ours, theirs = both(method="full")
        whole, by_layer = [s for s in ours if not s.gradients], [s for s in ours if s.gradients]
        name = f"full, {workload}"
        ratio(results, f"{name}, f32", "tokens_per_sec", best(results, ours), best(results, theirs), ">= 1.4")
        ratio(results, f"{name}, f32", "peak_mib", least(results, whole), least(results, theirs), "<= 0.65")
        ratio(results, f"{name}, f32, gradients a layer at a time", "peak_mib", least(results, by_layer), least(results, theirs), "<= 0.5")


def disagreements(results):
    """Both sides must have read the same tokens in every step, and begun at the same loss."""
    wrong = []
    for ours in results.measured(side="medtune"):
        for theirs in results.measured(side="torch", workload=ours.workload, method=ours.method):
            a, b = results.reports(ours), results.reports(theirs)
            for one, other in zip(a, b):
                if (one["tokens"], one["target_tokens"]) != (other["tokens"], other["target_tokens"]):
                    wrong.append(f"step {one['step']}: {ours.label} read other tokens than {theirs.label}")
            # Packed rows see each other; only a document's block is the same either way.
            same = theirs.layout == "padded" or theirs.workload == "documents"
            plain = all(s.precision == "f32" and s.dropout == 0 for s in (ours, theirs))
            off = abs(a[0]["loss"] - b[0]["loss"])
            if same and plain and not off <= LOSSES_AGREE:
                wrong.append(f"the first losses of {ours.label} and {theirs.label} are {off:.1e} apart")
    return list(dict.fromkeys(wrong))


def main():
    parser = argparse.ArgumentParser(usage="scripts/bench-peft MODEL_DIR [ROUNDS] [STEPS] [option...]")
    parser.add_argument("medtune", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("rounds", type=int, nargs="?", default=3)
    parser.add_argument("steps", type=int, nargs="?", default=6)
    parser.add_argument("--out", type=Path, help="where a line of JSON a run goes")
    parser.add_argument("--work", type=Path, default=Path("peers-work/bench-peft"))
    parser.add_argument("--only", default="", help="settings whose label matches this expression")
    parser.add_argument("--without", default="^$", help="no settings whose label matches this expression")
    parser.add_argument("--limit", type=int, default=600, help="seconds a run may take")
    args = parser.parse_args()
    settings = [s for s in SETTINGS if re.search(args.only, s.label) and not re.search(args.without, s.label)]
    if not settings:
        sys.exit("error: no setting is left\nhint: --only and --without match labels such as\n  " + "\n  ".join(s.label for s in SETTINGS))
    paths = Paths(args.medtune.resolve(), args.model.resolve(), args.work.resolve())
    out = args.out or args.work / "results.jsonl"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("")
    emulated = {s for s in settings if s.side == "torch" and s.precision != "f32" and not bf16_is_fast()}
    if emulated:
        print("this processor has no bf16 instructions: torch emulates bf16, and is given one step, once", file=sys.stderr)

    results = Results(settings)
    for number in range(args.rounds):
        for setting in settings:
            if setting in results.missing or (setting in emulated and number > 0):
                continue
            if setting in emulated and any(s.precision == setting.precision for s in results.missing if s in emulated):
                results.missing[setting] = "not run: another emulated one was too slow"
                continue
            steps, limit = (1, min(args.limit, EMULATED_LIMIT_SECS)) if setting in emulated else (args.steps, args.limit)
            run = run_medtune if setting.side == "medtune" else run_torch
            with OtherLoad() as load:
                reports, peak, why = run(setting, steps, paths, limit)
            if why:
                results.missing[setting] = why
                print(f"{setting.label}: {why}", file=sys.stderr)
                continue
            results.add(setting, reports, peak, load.cores)
            last = results.runs[setting][-1]
            print(f"round {number + 1}: {setting.label}: {last['tokens_per_sec']:.1f} tokens/s", file=sys.stderr, flush=True)
            with open(out, "a", encoding="utf-8") as lines:
                lines.write(json.dumps({"setting": setting.label, "round": number + 1, "threads": THREADS, **last}) + "\n")
    table(results)
    curves(results)
    print()
    shares(results)
    ratios(results)
    wrong = disagreements(results)
    if wrong:
        sys.exit("\n".join(f"error: {line}" for line in wrong))


main()
