"""Trains what `medtune gpu-check speed-train` trains with transformers and PEFT, and with Liger's kernels where they can
be imported: the same shapes, random weights, rank 16 on all linear layers, bf16 with SDPA, packs of one sequence of 4,096
tokens, every token a target, fused AdamW on f32 adapters. The row `attention` times torch's attentions alone
(attention.py). Writes one record for `medtune gpu-check --add`.

Where there is no torch that computes on CUDA it says so and writes a record that is skipped: no network, nothing installed.
"""

import argparse
import importlib.util
import json
import math
import statistics
import sys
import time

import attention

SHAPES = {
    "7b-lora": dict(vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32,
                    num_attention_heads=32, num_key_value_heads=32, rope_theta=1e4),
    "8b-lora": dict(vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
                    num_attention_heads=32, num_key_value_heads=8, rope_theta=5e5),
    "13b-lora": dict(vocab_size=32000, hidden_size=5120, intermediate_size=13824, num_hidden_layers=40,
                     num_attention_heads=40, num_key_value_heads=40, rope_theta=1e4),
}
TINY = dict(vocab_size=123, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, rope_theta=1e4)
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
GIB = 2**30


def flops_per_token(shape, sequence):
    """Forward and backward of a causal sequence, two thirds of it as the base is frozen: the formula of medtune's plan."""
    layers, h, f, v = (shape[k] for k in ["num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size"])
    kv = shape["num_key_value_heads"] / shape["num_attention_heads"]
    return (layers * h * h * (12 + 12 * kv + 18 * f / h + 6 * sequence / h) + 6 * h * v) * 2 / 3


def model_of(torch, shape, tokens, device):
    """A decoder whose weights are drawn on the device, with adapters whose weights are f32."""
    import transformers
    from peft import LoraConfig, get_peft_model
    config = transformers.LlamaConfig(
        **{k: v for k, v in shape.items() if k != "rope_theta"}, rms_norm_eps=1e-5, max_position_embeddings=tokens,
        tie_word_embeddings=False, use_cache=False, rope_parameters={"rope_type": "default", "rope_theta": shape["rope_theta"]})
    config._attn_implementation = "sdpa"
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = transformers.LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(default)
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, bias="none", task_type="CAUSAL_LM",
                                             target_modules=LINEAR))
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model


def train(torch, row, shape, tokens, device, liger, checkpointing, tiny):
    """Median seconds a step, losses, the last gradient norm, and the most memory."""
    torch.manual_seed(1)
    cuda = device.startswith("cuda")
    if liger:
        from liger_kernel.transformers import apply_liger_kernel_to_llama
        apply_liger_kernel_to_llama()
    model = model_of(torch, shape, tokens, device)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.0, fused=cuda)
    ids = torch.randint(shape["vocab_size"], (1, tokens), device=device)
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    secs, losses, norm = [], [], math.nan
    warm_up, steps = (1, 3) if tiny else (3, 20)
    begun = time.perf_counter()
    for step in range(warm_up + steps):
        if time.perf_counter() - begun > 120 and len(secs) > warm_up:
            break
        started = time.perf_counter()
        with torch.autocast(device.split(":")[0], dtype=torch.bfloat16):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, 1.0).item()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())  # waits for the device
        secs.append(time.perf_counter() - started)
    peak = torch.cuda.max_memory_allocated(device) / GIB if cuda else None
    return statistics.median(secs[warm_up:]), losses, norm, peak


def figures_of(what, shape, tokens, found):
    secs, losses, norm, peak = found
    rate = tokens / secs

    def figure(name, value, unit, note=""):
        return {"what": f"{what}: {name}", "value": value, "unit": unit, **({"note": note} if note else {})}

    figures = [figure("tokens", rate, "tokens/s"),
               figure("model arithmetic", rate * flops_per_token(shape, tokens) / 1e12, "TFLOP/s"),
               figure("loss of the first step", losses[0], "nats"),
               figure("loss of the last step", losses[-1], "nats", f"step {len(losses)}"),
               figure("gradient norm of the last step", norm, "")]
    if peak is not None:
        figures.append(figure("memory at most", peak, "GiB"))
    failures = []
    if not (losses[-1] < losses[0] and math.isfinite(norm)):
        failures.append(f"{what} does not learn: {losses[0]:.4f} to {losses[-1]:.4f}, gradient norm {norm:.4f}")
    return figures, failures


def skipped(why):
    print(f"SKIPPED: {why}", file=sys.stderr)
    return {"outcome": "skipped", "why": why}


def check(row, device, tiny):
    needed = ["torch"] if row == "attention" else ["torch", "transformers", "peft"]
    missing = [m for m in needed if importlib.util.find_spec(m) is None]
    if missing:
        return skipped(f"{sys.executable} has no {', '.join(missing)}")
    import torch
    if device.startswith("cuda") and not torch.cuda.is_available():
        return skipped(f"torch {torch.__version__} of {sys.executable} has no GPU to compute on")
    if row == "attention":
        figures, notes = attention.check(torch, device, tiny)
        cudnn = f", cuDNN {torch.backends.cudnn.version()}" if device.startswith("cuda") else ""
        why = "; ".join([f"torch {torch.__version__}{cudnn}"] + notes)
        return {"outcome": "measured", "why": why, "figures": figures} if figures else skipped(why)
    if row not in SHAPES:
        return skipped(f"there is no row {row} for Python: rows are attention, {', '.join(SHAPES)}")
    import peft
    import transformers
    shape, tokens = (TINY, 48) if tiny else (SHAPES[row], 4096)
    ways = [("transformers + PEFT", False)]
    if importlib.util.find_spec("liger_kernel") is not None:
        ways.append(("transformers + PEFT + Liger", True))  # last, as it changes transformers for good
    figures, failures, notes = [], [], [f"torch {torch.__version__}, transformers {transformers.__version__}, PEFT {peft.__version__}"]
    for what, liger in ways:
        for checkpointing in [False, True]:
            name = what + (", activations computed again" if checkpointing else "")
            try:
                found = train(torch, row, shape, tokens, device, liger, checkpointing, tiny)
            except Exception as error:  # out of memory: the next way needs less
                if "out of memory" not in str(error).lower():
                    failures.append(f"{name}: {type(error).__name__}: {str(error).splitlines()[0][:200]}")
                else:
                    notes.append(f"{name}: out of memory")
            else:
                more, wrong = figures_of(name, shape, tokens, found)
                figures += more
                failures += wrong
                print(json.dumps(more), file=sys.stderr)
            if device.startswith("cuda"):
                torch.cuda.empty_cache()
    if importlib.util.find_spec("unsloth") is not None:
        notes.append("Unsloth is installed; it loads models from files only, and is not run on random weights")
    return {"outcome": "failed" if failures else "measured", "why": "; ".join(notes), "figures": figures, "failures": failures}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--row", required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    date, started = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), time.perf_counter()
    found = check(args.row, args.device, args.tiny)
    record = {"stage": f"peers/{args.row}", "date": date, "secs": round(time.perf_counter() - started, 1), **found}
    with open(args.out, "w") as file:
        json.dump(record, file, indent=1)
    sys.exit(1 if record["outcome"] == "failed" else 0)


if __name__ == "__main__":
    main()
