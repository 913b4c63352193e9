"""AdamW with 8-bit block-wise moments, by bitsandbytes: tests/golden/adamw_8bit/golden.safetensors.

bitsandbytes is not in requirements.txt, since nothing else here needs it:  pip install --no-deps bitsandbytes==0.50.2
"""
import os
import sys
from unittest.mock import MagicMock

os.environ["TORCHDYNAMO_DISABLE"] = "1"

ELEMENTS = 5003  # 19 blocks of 256 and a remainder
STEPS = 20
SETTINGS = dict(lr=0.02, beta1=0.85, beta2=0.97, eps=1e-6, weight_decay=0.1)


def number(i, salt):
    """In -0.9987 to 1.0013, by whole numbers alone: kernels/tests/adamw_8bit.rs makes the same."""
    return ((i * 7919 + salt * 104729) % 2003) / 1001.0 - 0.9987


def gradient(step):
    """Blocks of five magnitudes, and every sixth without any gradient."""
    scale = [1.0, 1e-1, 1e-2, 1e-3, 1e-4, 0.0]
    return [number(i, 1 + step) * scale[i // 256 % 6] for i in range(ELEMENTS)]


def make(golden):
    import torch
    from safetensors.torch import save_file

    # The reference is plain torch but lies in a module that imports triton, which has no CPU build.
    sys.modules.setdefault("triton", MagicMock())
    sys.modules.setdefault("triton.language", MagicMock())
    from bitsandbytes.backends.triton.kernels_optim import optimizer_update_8bit_blockwise_pytorch
    from bitsandbytes.functional import create_dynamic_map

    signed, unsigned = create_dynamic_map(signed=True), create_dynamic_map(signed=False)
    p = torch.tensor([number(i, 1) for i in range(ELEMENTS)], dtype=torch.float64).float()
    # As bitsandbytes' init_state: codes of 0, scales of 0.
    blocks = -(-ELEMENTS // 256)
    first, second = (torch.zeros(ELEMENTS, dtype=torch.uint8) for _ in range(2))
    first_absmax, second_absmax = (torch.zeros(blocks) for _ in range(2))
    out = {"signed": signed, "unsigned": unsigned}
    for step in range(1, STEPS + 1):
        g = torch.tensor(gradient(step), dtype=torch.float64).float()
        optimizer_update_8bit_blockwise_pytorch(
            p, g, first, second, SETTINGS["beta1"], SETTINGS["beta2"], 0.0, 0.0, SETTINGS["eps"], step, SETTINGS["lr"],
            signed, unsigned, first_absmax, second_absmax, SETTINGS["weight_decay"], 1.0, False, optimizer_name="adam",
        )
        if step in (1, STEPS):
            state = {
                "p": p, "first.codes": first, "first.absmax": first_absmax, "second.codes": second, "second.absmax": second_absmax,
            }
            out |= {f"{step}.{name}": tensor.clone() for name, tensor in state.items()}
    folder = golden / "adamw_8bit"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(out, folder / "golden.safetensors")
