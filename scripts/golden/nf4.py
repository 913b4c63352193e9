"""NF4 with double quantization as bitsandbytes makes it: single tensors, and a tiny model with a PEFT adapter on it.

Needs bitsandbytes 0.50.2 beside requirements.txt (`pip install --no-deps bitsandbytes==0.50.2`); it runs on the CPU.

bitsandbytes rounds the absmax of a block to its nearest 8-bit code on a GPU and in its portable backend. Its native CPU
library first rounds it to one of 65,536 steps, which gives another code in 2 of 1,000 blocks. The tensors here come from
the portable backend; the model was quantized by the CPU library, so that reading is tested on what that one writes.
"""
import shutil

import numpy as np
import torch
from peft import PeftModel
from safetensors.torch import save_file

import models

BIG = (123, 134)  # 257.5 blocks of 64: two blocks of 256 absmax, both levels with a tail


def random(seed, *shape, std=0.02):
    return torch.from_numpy((np.random.RandomState(seed).standard_normal(shape) * std).astype(np.float32))


def tie_blocks(code):
    """Three blocks: every threshold, one step below and one above, with 1 or -1 in each block."""
    thresholds = ((code[:-1] + code[1:]) / 2).numpy()
    blocks = [thresholds, np.nextafter(thresholds, np.float32(-2)), np.nextafter(thresholds, np.float32(2))]
    rows = [np.concatenate([b, [sign], np.zeros(48)]) for b, sign in zip(blocks, (1, -1, 1))]
    return torch.from_numpy(np.stack(rows).astype(np.float32))


def cases(code):
    yield "odd", random(1, 5, 123)
    yield "one_block", random(2, 3, 17)
    yield "whole", random(3, 7, 192, std=0.7)
    yield "big", random(4, *BIG).to(torch.bfloat16)
    w = random(5, 4, 160)
    w[0, :64], w[1, 32:96] = 0, 3e-39  # a block of zeros, and one so small that its reciprocal is infinite
    w.view(-1)[256:320] *= 1e30
    yield "extremes", w
    yield "ties", tie_blocks(code)


def portable(name, *arguments):
    """An operation of bitsandbytes' portable backend, whatever this machine's own backend has put before it."""
    op = getattr(torch.ops.bitsandbytes, name).default
    return op._op_dk(torch._C.DispatchKey.CompositeExplicitAutograd, *arguments)


def quantize(w, functional):
    """`functional.quantize_4bit(w, blocksize=64, compress_statistics=True, quant_type="nf4")`, portably."""
    codes, absmax = portable("quantize_4bit", w, 64, "nf4", torch.uint8)
    offset = absmax.mean()
    dynamic_map = functional.create_dynamic_map()
    nested_codes, nested_absmax = portable("quantize_blockwise", absmax - offset, dynamic_map, 256)
    # Of a short last block of zeros the portable backend stores the number it divides by, the native ones the 0 itself.
    nested_absmax = torch.where(nested_absmax <= 1e-38, 0, nested_absmax)
    dequantized_absmax = portable("dequantize_blockwise", nested_codes, nested_absmax, dynamic_map, 256, torch.float32) + offset
    return codes, absmax, offset, nested_codes, nested_absmax, dequantized_absmax


def tensors(folder):
    import bitsandbytes.functional as functional

    code = functional.get_4bit_type("nf4", device="cpu")
    out = {"quant_map": code, "nested_quant_map": functional.create_dynamic_map()}
    for name, w in cases(code):
        codes, absmax, offset, nested_codes, nested_absmax, dequantized_absmax = quantize(w, functional)
        out.update({f"{name}.weight": w, f"{name}.codes": codes.reshape(-1), f"{name}.absmax": absmax,
                    f"{name}.offset": offset.reshape(1), f"{name}.nested_codes": nested_codes,
                    f"{name}.nested_absmax": nested_absmax, f"{name}.dequantized_absmax": dequantized_absmax})
        dequantize = lambda dtype: portable("dequantize_4bit", codes, dequantized_absmax, 64, "nf4", list(w.shape), dtype)
        if name != "big":
            out[f"{name}.dequantized"] = dequantize(torch.float32)
        out[f"{name}.dequantized_bf16"] = dequantize(torch.bfloat16)
        for dtype in (torch.float32, torch.bfloat16):  # the native library dequantizes to the same bits
            native = torch.ops.bitsandbytes.dequantize_4bit.default(codes, dequantized_absmax, 64, "nf4", list(w.shape), dtype)
            assert torch.equal(native, dequantize(dtype)), (name, dtype)
    # Means of so many numbers, where the order of the additions shows.
    for n in (1, 5, 8, 31, 257, 861, 4099, 20011):
        values = torch.from_numpy((np.arange(n) * 7919 % 1009 * 1e-4 + 1e-3).astype(np.float32))
        out[f"mean.{n}"] = values.mean().reshape(1)
    save_file({k: v.contiguous() for k, v in out.items()}, folder / "tensors.safetensors")


def model(folder):
    """A tiny Llama loaded in 4 bits and saved, with an adapter, and what transformers and PEFT compute on it."""
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    # 48 and 44 columns: blocks of 64 straddle rows.
    settings = dict(hidden_size=48, intermediate_size=44, num_attention_heads=6, vocab_size=61,
                    num_hidden_layers=1, rope_parameters=models.rope())
    base, plain = folder / "model", folder / "plain"
    models.build("llama", settings, seed=900).save_pretrained(plain)
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                                bnb_4bit_compute_dtype=torch.float32)
    load = lambda path, **more: AutoModelForCausalLM.from_pretrained(
        path, attn_implementation="eager", dtype=torch.float32, device_map="cpu", **more).eval()
    load(plain, quantization_config=config).save_pretrained(base)
    shutil.rmtree(plain)
    (base / "generation_config.json").unlink(missing_ok=True)

    batch = models.Batch(901, 61, [24, 9, 15])
    out = batch.tensors("")
    quantized = load(base)
    for name, module in quantized.named_modules():
        if isinstance(module, Linear4bit):
            out[f"dequantized.{name}.weight"] = dequantize_4bit(module.weight.data, module.weight.quant_state)
    with torch.no_grad():
        out["base.logits"] = batch.rows(quantized(**batch.padded()).logits)
    adapter = folder / "lora"  # not the adapter of an architecture, which a folder of that name is
    models.adapt(quantized, dict(r=3, lora_alpha=7)).save_pretrained(adapter)
    models.tidy_adapter(adapter)
    adapted = PeftModel.from_pretrained(load(base), adapter, is_trainable=True).eval()
    result, grads = models.gradients(adapted, models.lora_parameters(adapted), batch)
    out["lora.logits"] = batch.rows(result.logits.detach())
    out["lora.loss"] = result.loss.detach().reshape(1)
    out.update({f"lora.grad.{n}": g for n, g in grads.items()})
    save_file({k: v.contiguous() for k, v in out.items()}, folder / "parity.safetensors")


def make(golden):
    torch.set_num_threads(1)  # a mean is added up in another order by more
    folder = golden / "nf4"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tensors(folder)
    model(folder)
