"""What scripts/check-cuda-rehearsal holds runs to.

losses CPU GPU exact|rounded   losses and gradient norms, step by step
same ONE OTHER                 tensors and logs, byte by byte
steps JSON RUN WAITS           the rehearsal's counts of a training: a step waits for its loss and its gradients' norm
                               together, and for nothing else
answers CPU GPU                log-probabilities of an evaluation
"""

import json
import sys
from pathlib import Path

# Shares by which a loss and a gradient's norm may differ: sums in f32 in another order; roundings to bf16 elsewhere.
SHARES = {"exact": (1e-5, 1e-4), "rounded": (5e-3, 2e-2)}
# `save_steps` of the recipes.
SAVE_STEPS = 2
# By which a log-probability may differ.
NATS = 1e-4


def fail(text):
    sys.exit(f"error: {text}")


def steps_of(run):
    lines = (Path(run) / "train" / "steps.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def losses(cpu, gpu, rounding):
    ours, theirs = steps_of(gpu), steps_of(cpu)
    if len(ours) != len(theirs) or len(ours) < 3:
        fail(f"{len(ours)} steps on the GPU, {len(theirs)} on the processor")
    for a, b in zip(ours, theirs):
        print(f"step {a['step']}: loss {a['loss']:.6f} and {b['loss']:.6f}, norm {a['grad_norm']:.6f} and {b['grad_norm']:.6f}")
        for key, share in zip(("loss", "grad_norm"), SHARES[rounding]):
            # A NaN is within no bound.
            if not abs(a[key] - b[key]) <= share * abs(b[key]):
                fail(f"step {a['step']}: {key} is {a[key]} on the GPU, {b[key]} on the processor")


def same(one, other):
    def files(run):
        folder = Path(run)
        found = sorted(folder.rglob("*.safetensors"))
        return {str(path.relative_to(folder)): path.read_bytes() for path in found}

    ours, theirs = files(one), files(other)
    if not ours or ours.keys() != theirs.keys():
        fail(f"one has {sorted(ours)}, the other {sorted(theirs)}")
    for name, contents in ours.items():
        if contents != theirs[name]:
            fail(f"{name} differs")
    a, b = steps_of(one), steps_of(other)
    for key in ("loss", "grad_norm"):
        if [step[key] for step in a] != [step[key] for step in b]:
            fail(f"{key} differs")
    print(f"{len(ours)} files are the same bytes")


def steps(log, run, allowed):
    log = json.loads(Path(log).read_text())
    intervals, steps = log["intervals"], steps_of(run)
    launches = sum(log["kernels"].values())
    print(f"{launches} launches of {len(log['kernels'])} kernels, {log['counts']['products']} products, peak {log['peak_bytes'] / 1e6:.1f} MB")
    if log["candle_kernels"]:
        print(f"candle's kernels: {log['candle_kernels']}")
    if log["refused"]:
        fail(f"not in the stand-in: {log['refused']}")
    if len(intervals) % len(steps):
        fail(f"{len(intervals)} intervals, {len(steps)} steps")
    # Where gradients are applied layer by layer, a step has several intervals.
    each = len(intervals) // len(steps)
    most = 0
    for i in range(1, len(steps)):
        inside = {}
        for interval in intervals[i * each : (i + 1) * each]:
            uploads = interval["counts"].get("host_to_device_pageable", 0)
            if uploads:
                fail(f"step {i + 1} uploads {uploads} times from memory that is not pinned: a large copy of that kind waits")
            for where, times in interval["after"].items():
                # The step before may have been written to a checkpoint, one tensor after the other.
                if i % SAVE_STEPS or "after copy_to_host" not in where:
                    inside[where] = inside.get(where, 0) + times
        most = max(most, sum(inside.values()))
        if sum(inside.values()) > int(allowed):
            fail(f"step {i + 1} waits for the device: {inside}")
    print(f"waits for the device in a step: {most}")


def answers(cpu, gpu):
    def items(run):
        report = json.loads((Path(run) / "eval" / "report.json").read_text())
        return [item for task in report["models"][0]["tasks"] for item in task["items"]]

    ours, theirs = items(gpu), items(cpu)
    worst = 0.0
    for a, b in zip(ours, theirs, strict=True):
        for x, y in zip(a["log_probs"], b["log_probs"], strict=True):
            worst = max(worst, abs(x - y))
    if not ours or not worst <= NATS:
        fail(f"log-probabilities of {len(ours)} items differ by {worst}")
    print(f"{len(ours)} items, log-probabilities within {worst:.1e} nats")


if __name__ == "__main__":
    {"losses": losses, "same": same, "steps": steps, "answers": answers}[sys.argv[1]](*sys.argv[2:])
