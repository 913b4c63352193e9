"""Makes what scripts/bench-merge merges: weights of a real model's shapes in bf16, sharded as Hugging Face does, with an adapter.

python merge_models.py DIR 1b|13b   13b: ten of the forty layers of Llama-2-13B, about 7 GB; 1b: TinyLlama's shapes, 2.2 GB
Needs numpy. Same seed, same files."""
import json
import os
import shutil
import struct
import sys

import numpy as np

SHAPES = {
    "1b": dict(hidden_size=2048, intermediate_size=5632, num_hidden_layers=22, num_attention_heads=32, num_key_value_heads=4, vocab_size=32000, rms_norm_eps=1e-5, shard=10e9),
    "13b": dict(hidden_size=5120, intermediate_size=13824, num_hidden_layers=10, num_attention_heads=40, num_key_value_heads=40, vocab_size=32000, rms_norm_eps=1e-5, shard=2.5e9),
}
RANK = 16


def bf16(rng, shape, std):
    """Normal numbers as bf16's bits."""
    bits = (rng.standard_normal(shape, dtype=np.float32) * std).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def write(path, tensors, dtype):
    """A safetensors file of (name, shape, maker), made one at a time."""
    width, header, at = {"BF16": 2, "F32": 4}[dtype], {"__metadata__": {"format": "pt"}}, 0
    for name, shape, _ in tensors:
        size = width * int(np.prod(shape))
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape, make in tensors:
            file.write(make(shape).tobytes())


def main(folder, size):
    c = dict(SHAPES[size])
    shard_bytes = c.pop("shard")
    rng = np.random.default_rng(0)
    h, i, kv = c["hidden_size"], c["intermediate_size"], c["num_key_value_heads"] * (c["hidden_size"] // c["num_attention_heads"])
    linear = {"self_attn.q_proj": (h, h), "self_attn.k_proj": (kv, h), "self_attn.v_proj": (kv, h), "self_attn.o_proj": (h, h), "mlp.gate_proj": (i, h), "mlp.up_proj": (i, h), "mlp.down_proj": (h, i)}
    normal, ones = (lambda s: bf16(rng, s, 0.02)), (lambda s: np.full(s, 0x3F80, np.uint16))
    tensors = [("model.embed_tokens.weight", (c["vocab_size"], h), normal)]
    for layer in range(c["num_hidden_layers"]):
        tensors += [(f"model.layers.{layer}.{name}.weight", shape, normal) for name, shape in linear.items()]
        tensors += [(f"model.layers.{layer}.{name}.weight", (h,), ones) for name in ("input_layernorm", "post_attention_layernorm")]
    tensors += [("model.norm.weight", (h,), ones), ("lm_head.weight", (c["vocab_size"], h), normal)]
    shards, filled = [[]], 0
    for tensor in tensors:
        size_bytes = 2 * int(np.prod(tensor[1]))
        if filled and filled + size_bytes > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += size_bytes
    base = os.path.join(folder, "base")
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(base)
    names = ["model.safetensors"] if len(shards) == 1 else [f"model-{n + 1:05}-of-{len(shards):05}.safetensors" for n in range(len(shards))]
    for name, part in zip(names, shards):
        write(os.path.join(base, name), part, "BF16")
    if len(shards) > 1:
        weight_map = {t[0]: name for name, part in zip(names, shards) for t in part}
        total = sum(2 * int(np.prod(t[1])) for t in tensors)
        json.dump({"metadata": {"total_size": total}, "weight_map": weight_map}, open(os.path.join(base, "model.safetensors.index.json"), "w"))
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "max_position_embeddings": 2048, "rope_theta": 10000.0, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2, **c}
    json.dump(config, open(os.path.join(base, "config.json"), "w"))
    adapter = os.path.join(folder, "adapter")
    os.makedirs(adapter)
    pairs = []
    for layer in range(c["num_hidden_layers"]):
        for name, (out, inner) in linear.items():
            key = f"base_model.model.model.layers.{layer}.{name}"
            pairs.append((key + ".lora_A.weight", (RANK, inner), lambda s: (rng.standard_normal(s, dtype=np.float32) / np.sqrt(s[1])).astype(np.float32)))
            pairs.append((key + ".lora_B.weight", (out, RANK), lambda s: rng.standard_normal(s, dtype=np.float32) * np.float32(0.02)))
    write(os.path.join(adapter, "adapter_model.safetensors"), pairs, "F32")
    settings = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 32, "lora_dropout": 0.0, "bias": "none", "target_modules": sorted(n.split(".")[1] for n in linear), "base_model_name_or_path": base, "inference_mode": True}
    json.dump(settings, open(os.path.join(adapter, "adapter_config.json"), "w"))


main(sys.argv[1], sys.argv[2])
