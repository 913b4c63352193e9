"""DoRA, modules_to_save and LoRA+ on the models of models.py: an adapter of each kind, and what PEFT makes of it."""
import json
import shutil

import torch
from peft import PeftModel
from peft.optimizers import create_loraplus_optimizer
from safetensors.torch import save_file
from transformers.utils import logging

from models import (ADAMW, ARCHITECTURES, COMMON, Batch, adapt, decay_groups, gradients, load, random, rounding, save_adapter,
                    train, trained_parameters)

LORAPLUS = dict(lr_ratio=16.0, steps=6)
# What each model's adapter saves whole. Between them: both tables of a model that has two, the one of a model that ties them
# (by either name), norms (by the end of their names, so all of them), linear layers with a bias and without.
SAVED = {
    "llama": ["embed_tokens", "lm_head"],
    "llama_gqa": ["lm_head", "norm"],
    "llama3_rope": ["embed_tokens"],
    "llama_linear_rope": ["embed_tokens"],
    "mistral_window": ["model.norm", "down_proj"],
    "qwen2": ["lm_head", "q_proj"],
    "qwen3": ["embed_tokens", "q_norm"],
    "smollm2_tiny": ["lm_head"],
    "tinyllama": ["lm_head"],
}
MERGED = {("llama", "dora"), ("llama_gqa", "dora"), ("qwen2", "saved")}


def settings(name, variant):
    _, config, lora, _ = ARCHITECTURES[name]
    if variant == "dora":
        return dict(lora, use_dora=True)
    # tinyllama's is both at once
    tied = config.get("tie_word_embeddings", False) and any(n in ("embed_tokens", "lm_head") for n in SAVED[name])
    return dict(lora, modules_to_save=list(SAVED[name]), ensure_weight_tying=tied, use_dora=name == "tinyllama")


def randomised(base, name, variant):
    """An adapter none of whose tensors is where training starts."""
    model = adapt(base, settings(name, variant))
    with torch.no_grad():
        for i, (key, p) in enumerate(sorted(model.named_parameters())):
            if "lora_magnitude_vector" in key:
                # PEFT set it before A and B got their values: any magnitude will do, none of them the norm
                p.mul_(1 + random(7000 + i, p.shape, 0.2).abs())
            elif "modules_to_save" in key:
                p.add_(random(8000 + i, p.shape, 0.1))
    return model


def loraplus(folder, adapter, batches):
    model = PeftModel.from_pretrained(load(folder), adapter, is_trainable=True).train()
    # PEFT decays saved norms here, transformers' Trainer and medtune do not: left out where there are any
    weight_decay = 0.0 if any("norm" in n for n in trained_parameters(model)) else 0.1
    optimizer = create_loraplus_optimizer(model, torch.optim.AdamW, loraplus_lr_ratio=LORAPLUS["lr_ratio"],
                                          loraplus_weight_decay=weight_decay, **ADAMW)
    record = train(model, optimizer, batches, LORAPLUS["steps"])
    return dict(loraplus_lr_ratio=LORAPLUS["lr_ratio"], weight_decay=weight_decay, **record)


def merged(folder, adapter, name, variant):
    if (name, variant) not in MERGED:
        return {}
    keep = lambda n: ".layers.1." in n or "lm_head" in n or "embed" in n
    def changed(dtype):
        base = load(folder, dtype).state_dict()
        model = PeftModel.from_pretrained(load(folder, dtype), adapter, autocast_adapter_dtype=True)
        return {n: w for n, w in model.merge_and_unload().state_dict().items() if keep(n) and not torch.equal(w, base[n])}
    result = {f"merged.{n}": w.clone() for n, w in changed(torch.float32).items()}
    result.update({f"merged_bf16.{n}": w.clone() for n, w in changed(torch.bfloat16).items()})
    return result


def make_one(folder, name, variant):
    out = folder / variant
    shutil.rmtree(out, ignore_errors=True)
    save_adapter(randomised(load(folder), name, variant), out)
    batch = Batch(1, COMMON["vocab_size"], [24, 15, 8])
    batches = [Batch(100 + i, COMMON["vocab_size"]) for i in range(5)]
    model = PeftModel.from_pretrained(load(folder), out, is_trainable=True).eval()
    result, grads = gradients(model, trained_parameters(model), batch)
    fixtures = {"logits": batch.rows(result.logits.detach()), **{f"grad.{n}": g for n, g in grads.items()}}
    fixtures.update(merged(folder, out, name, variant))
    trained = PeftModel.from_pretrained(load(folder), out, is_trainable=True).train()
    optimizer = torch.optim.AdamW(decay_groups(trained_parameters(trained).items()), **ADAMW)
    golden = dict(loss=result.loss.item(), rounding=rounding(folder, out, batch, grads), train=train(trained, optimizer, batches),
                  loraplus=loraplus(folder, out, batches))
    save_file({k: v.contiguous() for k, v in fixtures.items()}, out / "fixtures.safetensors")
    (out / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")


def make(golden):
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for name in ARCHITECTURES:
        for variant in ("dora", "saved"):
            make_one(golden / name, name, variant)
            print(name, variant, flush=True)
