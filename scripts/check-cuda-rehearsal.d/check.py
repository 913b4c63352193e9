"""What scripts/check-cuda-rehearsal holds runs to.

losses CPU GPU      losses and gradient norms, step by step
same ONE OTHER      adapters and checkpoints, byte by byte
steps JSON STEPS    the rehearsal's counts of a training of that many steps
"""

import json
import sys
from pathlib import Path

# bf16 keeps 8 bits; a loss is a mean over many tokens, a norm a sum over many products.
LOSS, NORM = 5e-3, 2e-2


def fail(text):
    sys.exit(f"error: {text}")


def steps_of(run):
    lines = (Path(run) / "train" / "steps.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def losses(cpu, gpu):
    ours, theirs = steps_of(gpu), steps_of(cpu)
    if len(ours) != len(theirs) or not ours:
        fail(f"{len(ours)} steps on the GPU, {len(theirs)} on the processor")
    for a, b in zip(ours, theirs):
        line = f"step {a['step']}: loss {a['loss']:.6f} and {b['loss']:.6f}, norm {a['grad_norm']:.6f} and {b['grad_norm']:.6f}"
        print(line)
        if not abs(a["loss"] - b["loss"]) <= LOSS * abs(b["loss"]):
            fail(f"the losses differ: {line}")
        if not abs(a["grad_norm"] - b["grad_norm"]) <= NORM * abs(b["grad_norm"]):
            fail(f"the gradients differ: {line}")
    if ours[0]["loss"] <= ours[-1]["loss"]:
        fail("nothing was learnt")


def same(one, other):
    def files(run):
        folder = Path(run) / "train"
        return {
            str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("*.safetensors"))
        }

    ours, theirs = files(one), files(other)
    if not ours or ours.keys() != theirs.keys():
        fail(f"one has {sorted(ours)}, the other {sorted(theirs)}")
    for name, contents in ours.items():
        if contents != theirs[name]:
            fail(f"{name} differs")
    pairs = zip(steps_of(one), steps_of(other))
    for a, b in pairs:
        for key in ("loss", "grad_norm"):
            if a[key] != b[key]:
                fail(f"step {a['step']}: {key} is {a[key]} and {b[key]}")
    print(f"{len(ours)} files are the same bytes")


def steps(log, count):
    log = json.loads(Path(log).read_text())
    intervals = log["intervals"]
    print(f"{sum(log['kernels'].values())} launches of {len(log['kernels'])} kernels, {log['counts']['products']} products")
    print(f"peak {log['peak_bytes'] / 1e6:.1f} MB, candle's kernels: {log['candle_kernels'] or 'none'}")
    print(f"waits: {log['host_synchronizations_after']}")
    if log["refused"]:
        fail(f"not in the stand-in: {log['refused']}")
    if len(intervals) != int(count):
        fail(f"{len(intervals)} steps were counted, not {count}")
    for i, interval in enumerate(intervals[1:], 2):
        # The step's loss is asked for once, when all of it is under way.
        if interval["host_synchronizations"] > 1:
            fail(f"step {i} waits for the device: {interval['after']}")
        counts = interval["counts"]
        print(f"step {i}: {counts['launches']} launches, {counts.get('allocations', 0)} allocations, {interval['after']}")


if __name__ == "__main__":
    {"losses": losses, "same": same, "steps": steps}[sys.argv[1]](*sys.argv[2:])
