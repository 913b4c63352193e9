"""Times torch's fused attentions, cuDNN's among them, at the sizes of `medtune gpu-check speed-ops`: causal attention of
Llama-2-13B's 40 heads of 128 over 4,096 tokens in bf16, as one sequence and as 16. The arithmetic is counted as there: half
of a square of products forward, 2.5 times that more backward. Which of them beats medtune's own kernel says whose to use.
"""

import math
import statistics
import time

SIZES = dict(tokens=4096, heads=40, width=128)
TINY = dict(tokens=32, heads=2, width=16)
SEQUENCES = {"one sequence": 1, "16 sequences": 16}
BACKENDS = {"cuDNN": "CUDNN_ATTENTION", "FlashAttention": "FLASH_ATTENTION"}


def wait(torch, device):
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def seconds(torch, device, tiny, call):
    """Of one call: the median of nine rounds of about 50 ms, and half of their spread in percent."""
    def round_of(calls):
        started = time.perf_counter()
        for _ in range(calls):
            call()
        wait(torch, device)
        return (time.perf_counter() - started) / calls

    call()
    wait(torch, device)
    if tiny:
        return round_of(1), 0.0
    calls = max(1, math.ceil(0.05 / round_of(3)))
    rounds = [round_of(calls) for _ in range(9)]
    median = statistics.median(rounds)
    return median, 50 * (max(rounds) - min(rounds)) / median


def attentions(torch, backend, sequences, sizes, device, tiny):
    """Seconds forward, and forward and backward, with the spread of each; their FLOPs."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    length = sizes["tokens"] // sequences
    shape = (sequences, sizes["heads"], length, sizes["width"])
    q, k, v, d_o = (torch.randn(shape, dtype=torch.bfloat16, device=device) for _ in range(4))

    def forward():
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)

    def both():
        torch.autograd.grad(forward(), (q, k, v), d_o)

    flops = 4 * sequences * length**2 / 2 * sizes["heads"] * sizes["width"]
    with sdpa_kernel(getattr(SDPBackend, backend)):
        with torch.no_grad():
            ahead = seconds(torch, device, tiny, forward)
        for x in (q, k, v):
            x.requires_grad_()
        return ahead, seconds(torch, device, tiny, both), flops


def check(torch, device, tiny):
    """Figures, and which backends refuse."""
    torch.manual_seed(1)
    figures, notes = [], []
    # The processor has neither; a rehearsal there times what it has.
    backends = BACKENDS if device.startswith("cuda") else {"torch's plain attention": "MATH"}
    for name, backend in backends.items():
        for what, sequences in SEQUENCES.items():
            try:
                found = attentions(torch, backend, sequences, TINY if tiny else SIZES, device, tiny)
            except RuntimeError as error:
                notes.append(f"{name}, {what}: {str(error).splitlines()[0][:200]}")
                continue
            *timings, flops = found
            for (secs, spread), factor, passes in zip(timings, [1, 3.5], ["", ", forward and backward"]):
                figures.append({"what": f"attention, {what}{passes}: {name}", "value": factor * flops / secs / 1e12,
                                "unit": "TFLOP/s", "note": f"± {spread:.1f} %"})
    return figures, notes
