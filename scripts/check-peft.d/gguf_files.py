"""Do the gguf package and transformers read the GGUF files that medtune writes? Imported by check.py."""
import json

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Q
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

TYPES = {"f32": Q.F32, "f16": Q.F16, "bf16": Q.BF16, "q8_0": Q.Q8_0, "q4_k": Q.Q4_K}
NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}
# The largest share of a tensor's root mean square that its blocks may be off by, on average.
TOLERANCE = {Q.Q4_K: 0.09, Q.Q5_K: 0.045, Q.Q6_K: 0.025, Q.Q5_0: 0.06, Q.Q5_1: 0.05, Q.Q8_0: 0.008}


def stored_name(name):
    module, kind = name.rsplit(".", 1)
    if module.startswith("model.layers."):
        layer, rest = module.removeprefix("model.layers.").split(".", 1)
        return f"blk.{layer}.{NAMES[rest]}.{kind}"
    return f"{NAMES[module]}.{kind}"


def permuted(w, name, config):
    """llama.cpp's order of q and k rows, for the llama architecture only."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
    if config.model_type != "llama" or heads is None:
        return w
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def expected_tensors(model):
    """Checkpoint tensors by the names and in the order of a GGUF file."""
    tensors = {}
    for name, w in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        tensors[stored_name(name)] = permuted(w.float().numpy(), name, model.config)
    return tensors


def read(path):
    """Values (by the gguf package's own dequantization), types and metadata."""
    reader = gguf.GGUFReader(path)
    tensors = {t.name: (gguf.dequantize(t.data, t.tensor_type).astype(np.float32).reshape(t.shape.tolist()[::-1]), t) for t in reader.tensors}
    return tensors, {key: field.contents() for key, field in reader.fields.items()}


def bf16(w):
    return torch.from_numpy(w).to(torch.bfloat16).float().numpy()


def compare_tensors(report, name, model, path, kind):
    """Every tensor is there and holds what its type can hold of it. Returns the tensors and the worst error of a block type."""
    found, _ = read(path)
    expected = expected_tensors(model)
    wrong, types, worst = [], {}, 0.0
    for key, w in expected.items():
        values, tensor = found[key]
        q = tensor.tensor_type
        types[q.name] = types.get(q.name, 0) + 1
        if w.ndim == 1 or q in (Q.F32, Q.F16, Q.BF16):
            stored = {Q.F32: lambda w: w, Q.F16: lambda w: w.astype(np.float16).astype(np.float32), Q.BF16: bf16}[q](w)
            ok = np.array_equal(values, stored)
        elif q == Q.Q8_0:
            ok = np.array_equal(np.asarray(tensor.data).reshape(w.shape[0], -1), gguf.quantize(w, q))
        else:
            off = float(np.sqrt(np.mean((values - w) ** 2) / np.mean(w ** 2)))
            worst, ok = max(worst, off), off <= TOLERANCE[q]
        if not ok:
            wrong.append(f"{key} ({q.name})")
    report.add(f"{name}: {kind} GGUF in the gguf package", set(found) == set(expected) and not wrong, types=types, wrong=wrong,
               worst_relative_rms=worst)
    return found


def logits(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].float()


def as_stored(model, path):
    """The model of the folder with the numbers of the file: what transformers must make of the file."""
    values, _ = read(path)
    with torch.no_grad():
        for name, p in model.named_parameters():
            w = values[stored_name(name)][0]
            heads = {"q_proj": model.config.num_attention_heads, "k_proj": model.config.num_key_value_heads}.get(name.split(".")[-2])
            if model.config.model_type == "llama" and heads is not None:
                w = w.reshape(heads, w.shape[0] // heads // 2, 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)
            p.copy_(torch.from_numpy(np.ascontiguousarray(w)))
    return model


def check_model(report, medtune, work, name, folder, load, ids, texts, kinds):
    for kind in kinds:
        path = work / f"{name}.{kind}.gguf"
        medtune.run("export", folder, path, "--type", kind)
        compare_tensors(report, name, load(folder), path, kind)
        if kind in ("f16", "q8_0"):
            theirs = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager").eval()
            plain, rounded = logits(load(folder), ids), logits(theirs, ids)
            tolerance = 1e-5 * float(plain.abs().max())  # f32 rounds at 6e-8 of a number, many times over
            stored = logits(as_stored(load(folder), path), ids)
            report.logits(f"{name}: {kind} GGUF in transformers, the folder's numbers as stored", rounded, stored, tolerance)
            report.logits(f"{name}: {kind} GGUF in medtune and in transformers", medtune.logits(path, ids), rounded, tolerance)
            report.add(f"{name}: {kind} GGUF in transformers, the folder", float((plain - rounded).abs().max()) <= 0.05 * float(plain.abs().max()),
                       max_abs_logit_difference=float((plain - rounded).abs().max()), largest_logit=float(plain.abs().max()))
    path = work / f"{name}.{kinds[0]}.gguf"
    _, metadata = read(path)
    tokenizer, converted = AutoTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    same = [tokenizer.encode(t) == converted.encode(t) for t in texts]
    report.add(f"{name}: ids of the GGUF file's tokenizer in transformers", all(same), texts=len(same), pre=metadata["tokenizer.ggml.pre"])


def check_adapter(report, medtune, work, name, base, adapter, load):
    """llama.cpp's reading of an adapter: W + alpha / r · lora_b @ lora_a, against PEFT's merge."""
    path = work / f"{name}.lora.gguf"
    medtune.run("export", "--adapter", adapter, "--base", base, path)
    found, metadata = read(path)
    plain = expected_tensors(load(base))
    merged = expected_tensors(PeftModel.from_pretrained(load(base), adapter).merge_and_unload())
    moved, largest, worst = 0, 0.0, 0.0
    for key, w in plain.items():
        if f"{key}.lora_a" in found:
            a, b = found.pop(f"{key}.lora_a")[0], found.pop(f"{key}.lora_b")[0]
            update = metadata["adapter.lora.alpha"] / a.shape[0] * (b @ a)
            moved, largest, w = moved + 1, max(largest, float(np.abs(update).max())), w + update
        worst = float(np.maximum(worst, np.abs(w - merged[key]).max()))  # a NaN stays one, and fails
    kinds = (metadata["general.type"], metadata["adapter.type"], metadata["general.architecture"])
    report.add(f"{name}: GGUF adapter in the gguf package, merge in PEFT", not found and moved > 0 and largest > 0.1 and worst <= 1e-5 and kinds[:2] == ("adapter", "lora"),
               modules=moved, largest_update=largest, max_abs_weight_difference=worst, tolerance=1e-5, alpha=float(metadata["adapter.lora.alpha"]))


def check_rope(report, medtune, folder, load):
    """The divisors of Llama 3's rotary embedding against transformers' frequencies."""
    path = folder.parent / "rope.gguf"
    medtune.run("export", folder, path, "--type", "f32")
    model = load(folder)
    rotary, config = model.model.rotary_emb, model.config
    plain = 1 / config.rope_parameters["rope_theta"] ** (torch.arange(0, config.head_dim, 2).double() / config.head_dim)
    expected = (plain / rotary.inv_freq.double()).numpy()
    found = read(path)[0]["rope_freqs.weight"][0]
    worst = float(np.abs(found / expected - 1).max())
    report.add("llama3: divisors of the rotary frequencies, in transformers", found.shape == expected.shape and found.max() > 1 and worst <= 1e-6,
               divisors=[float(found.min()), float(found.max())], max_relative_difference=worst, tolerance=1e-6)


def check_metadata(report, ours, published):
    """What a file says of the model and its tokenizer, against the file that llama.cpp's converter made of the same model."""
    ours, published = read(ours)[1], read(published)[1]
    said = [key for key in published if not key.startswith(("GGUF.", "general."))]
    # llama.cpp's converter writes it for a vocabulary that it means nothing to.
    differ = [key for key in said if key != "tokenizer.ggml.add_space_prefix" and ours.get(key) != published[key]]
    report.add("SmolLM2: metadata of the published GGUF file", not differ and len(said) > 15, keys=len(said), differ=differ)


def smollm2_answers(golden):
    return [t["text"] for t in json.loads((golden / "smollm2" / "golden.json").read_text())["texts"]]
