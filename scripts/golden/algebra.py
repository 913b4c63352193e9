"""Adapters combined by PEFT's add_weighted_adapter, and the singular values of the difference between two models."""
import json
import shutil

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from models import load, random

BASE = "llama_gqa"
# Ranks, scalings and targets overlap and differ. The first is not rank-stabilised: PEFT gives the result the first one's
# use_rslora and an alpha of its rank, which is a scaling of 1 only without it.
ADAPTERS = {
    "a": dict(r=3, lora_alpha=7, target_modules=["q_proj", "v_proj"]),
    "b": dict(r=3, lora_alpha=5, use_rslora=True, target_modules=["v_proj", "up_proj"]),
    "c": dict(r=5, lora_alpha=2, target_modules=["up_proj", "v_proj"]),
}
WEIGHTS = dict(a=0.7, b=-0.4, c=1.3)
# PEFT's name, adapters, density
COMBINED = [("cat", "abc", None), ("ties", "ab", 0.3), ("dare_linear", "ab", 1.0), ("dare_ties", "ab", 1.0), ("ties_svd", "abc", 0.3)]
# Of the same shapes, and otherwise strangers: a difference of full rank.
MODELS = ("llama_linear_rope", "mistral_window")


def make_adapters(golden, folder):
    for i, (name, settings) in enumerate(ADAPTERS.items()):
        model = get_peft_model(load(golden / BASE), LoraConfig(lora_dropout=0.0, task_type="CAUSAL_LM", **settings))
        with torch.no_grad():
            for j, (key, p) in enumerate(sorted(model.named_parameters())):
                if "lora_" in key:
                    p.copy_(random(9000 + 100 * i + j, p.shape, 0.3))
        model.save_pretrained(folder / name)
        (folder / name / "README.md").unlink(missing_ok=True)
        config = folder / name / "adapter_config.json"
        settings = json.loads(config.read_text())
        settings.update(base_model_name_or_path=None, target_modules=sorted(settings["target_modules"]))
        config.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


def combined(golden, folder):
    model = PeftModel.from_pretrained(load(golden / BASE), folder / "a", adapter_name="a")
    for name in "bc":
        model.load_adapter(folder / name, adapter_name=name)
    tensors = {}
    for method, names, density in COMBINED:
        with torch.no_grad():
            model.add_weighted_adapter(list(names), [WEIGHTS[n] for n in names], method, combination_type=method, density=density)
        found = get_peft_model_state_dict(model, adapter_name=method)
        config = model.peft_config[method]
        assert config.lora_alpha == config.r and not config.use_rslora
        if not method.endswith("_svd"):
            tensors.update({f"{method}.{k}": t.clone().contiguous() for k, t in found.items()})
            continue
        # Singular vectors have no signs of their own: the update is what can be compared.
        for key in found:
            if key.endswith("lora_A.weight"):
                a, b = found[key].double(), found[key.replace("lora_A", "lora_B")].double()
                tensors[f"{method}.{key.removesuffix('.lora_A.weight')}"] = (b @ a).float()
    with torch.no_grad():
        model.add_weighted_adapter(["a", "b"], [WEIGHTS["a"], WEIGHTS["b"]], "linear", combination_type="linear")
    for key, tensor in get_peft_model_state_dict(model, adapter_name="linear").items():
        assert torch.allclose(tensor, tensors[f"dare_linear.{key}"], atol=1e-7), "PEFT's linear is dare_linear that drops nothing"
    return tensors


def spectra(golden):
    base, tuned = (load_file(golden / name / "model.safetensors") for name in MODELS)
    assert base.keys() == tuned.keys()
    matrices = [n for n in sorted(base) if base[n].dim() == 2 and "embed" not in n and "lm_head" not in n]
    values = lambda n: np.linalg.svd(tuned[n].double().numpy() - base[n].double().numpy(), compute_uv=False)
    return {n: values(n).tolist() for n in matrices}


def make(golden):
    folder = golden / "combine"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    make_adapters(golden, folder)
    save_file(combined(golden, folder), folder / "combined.safetensors")
    (folder / "spectra.json").write_text(json.dumps(spectra(golden)) + "\n")
