"""Tiny seeded decoders, one folder each: weights, a PEFT adapter, and what transformers, PEFT and torch make of them."""
import json
import math
import shutil

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, get_cosine_schedule_with_warmup
from transformers.utils import logging

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
STEPS, WARMUP_STEPS, LEARNING_RATE = 20, 4, 1e-3

# Awkward on purpose: no square projection where the architecture allows one not to be, vocabularies that
# are no multiple of a vector, a window shorter than the samples, rope lengths the samples reach.
COMMON = dict(
    vocab_size=97, hidden_size=32, intermediate_size=44, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=128, rms_norm_eps=1e-5, tie_word_embeddings=False,
    bos_token_id=1, eos_token_id=2, pad_token_id=0, dtype="float32",
)


def rope(kind="default", theta=10000.0, **more):
    return dict(rope_type=kind, rope_theta=theta, **more)


LLAMA3_ROPE = rope("llama3", 500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                   original_max_position_embeddings=64)

# folder: model type, config over COMMON, LoRA settings over LORA, and which extra goldens it carries
ARCHITECTURES = {
    "llama": ("llama", dict(num_key_value_heads=4, rope_parameters=rope()), {}, {"full", "accumulate", "bf16_merge"}),
    "llama_gqa": ("llama", dict(hidden_size=48, intermediate_size=40, num_attention_heads=6, rope_parameters=rope()),
                  dict(use_rslora=True, r=3), set()),
    "llama3_rope": ("llama", dict(num_attention_heads=2, num_key_value_heads=1, rope_parameters=LLAMA3_ROPE,
                                  tie_word_embeddings=True), {}, set()),
    "llama_linear_rope": ("llama", dict(rope_parameters=rope("linear", factor=4.0)), {}, set()),
    "mistral_window": ("mistral", dict(sliding_window=8, rope_parameters=rope(theta=1e6)), {}, set()),
    "qwen2": ("qwen2", dict(rms_norm_eps=1e-6, rope_parameters=rope(theta=1e6), tie_word_embeddings=True), {}, {"full"}),
    "qwen3": ("qwen3", dict(head_dim=16, rms_norm_eps=1e-6, rope_parameters=rope(theta=1e6), tie_word_embeddings=True),
              {}, {"full"}),
    "smollm2_tiny": ("llama", dict(hidden_size=36, intermediate_size=56, num_attention_heads=9, num_key_value_heads=3,
                                   rope_parameters=rope(theta=1e5), tie_word_embeddings=True), {}, set()),
    "tinyllama": ("llama", dict(num_attention_heads=8, num_key_value_heads=1, rope_parameters=rope()),
                  dict(target_modules=["q_proj", "v_proj"]), {"sharded"}),
}
LORA = dict(r=4, lora_alpha=10, lora_dropout=0.0, bias="none", target_modules=LINEAR, task_type="CAUSAL_LM")


def random(seed, shape, std):
    return torch.from_numpy((np.random.RandomState(seed).standard_normal(shape) * std).astype(np.float32))


def fill(model, seed):
    """Weights by sorted name, so that they do not depend on how transformers orders or draws them."""
    with torch.no_grad():
        for i, (name, p) in enumerate(sorted(model.named_parameters())):
            if "norm" in name:
                p.copy_(1 + random(seed + i, p.shape, 0.1))
            elif name.endswith("bias"):
                p.copy_(random(seed + i, p.shape, 0.2))
            elif "embed" in name:
                p.copy_(random(seed + i, p.shape, 0.5))
            else:
                p.copy_(random(seed + i, p.shape, 1 / math.sqrt(p.shape[-1])))


def build(kind, settings, seed):
    config = AutoConfig.for_model(kind, **{**COMMON, **settings})
    config._attn_implementation = "eager"
    config.architectures = [{"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM",
                             "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}[kind]]
    model = AutoModelForCausalLM.from_config(config)
    fill(model, seed)
    model.tie_weights()
    return model.eval()


def load(folder, dtype=torch.float32):
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=dtype).eval()


def dialect_of_transformers_4(config):
    """The same model as transformers 4 wrote it: the keys that moved, and those that were not there yet."""
    old = {k: v for k, v in config.items() if k not in ("dtype", "rope_parameters", "layer_types")}
    old.update(torch_dtype=config["dtype"], transformers_version="4.46.0")
    parameters = dict(config["rope_parameters"])
    old["rope_theta"] = parameters.pop("rope_theta")
    kind = parameters.pop("rope_type")
    # "type" is the older name of "rope_type"; linear scaling predates the change, llama3 does not.
    old["rope_scaling"] = None if kind == "default" else dict(parameters, **{"type" if kind == "linear" else "rope_type": kind})
    if config["model_type"] == "llama":
        old.pop("head_dim")
    return old


class Batch:
    """Ragged samples, a masked prompt, and in the first sample a masked stretch in the middle (a second turn)."""

    def __init__(self, seed, vocab, lengths=None):
        r = np.random.RandomState(seed)
        self.lengths = lengths or [24] + [int(n) for n in r.randint(7, 25, size=2)]
        self.ids = [r.randint(3, vocab, size=n) for n in self.lengths]
        self.labels = [np.concatenate([np.full(4, -100), x[4:]]) for x in self.ids]
        self.labels[0][9:13] = -100

    def padded(self):
        """(B, S) ids, labels and attention mask, padded on the right, as transformers wants them."""
        b, s = len(self.ids), max(self.lengths)
        ids, labels, mask = np.zeros((b, s), np.int64), np.full((b, s), -100), np.zeros((b, s), np.int64)
        for i, n in enumerate(self.lengths):
            ids[i, :n], labels[i, :n], mask[i, :n] = self.ids[i], self.labels[i], 1
        return dict(input_ids=torch.from_numpy(ids), labels=torch.from_numpy(labels), attention_mask=torch.from_numpy(mask))

    def tensors(self, prefix):
        """(T,) ids and labels of the samples one after another, and (B,) lengths, as the fixtures hold them."""
        flat = lambda rows: torch.from_numpy(np.concatenate(rows).astype(np.int64))
        return {prefix + "input_ids": flat(self.ids), prefix + "labels": flat(self.labels),
                prefix + "lengths": torch.tensor(self.lengths)}

    def targets(self):
        return int(sum((x[1:] != -100).sum() for x in self.labels))

    def rows(self, padded_rows):
        """(B, S, V) to (T, V): the padding taken out."""
        return torch.cat([padded_rows[i, :n] for i, n in enumerate(self.lengths)]).contiguous()


def peft_key(name):
    """The key in adapter_model.safetensors of a parameter of the adapted model."""
    name = name.replace(".modules_to_save.default.", ".")
    return name.replace(".lora_magnitude_vector.default.weight", ".lora_magnitude_vector").replace(".default.weight", ".weight")


def adapt(model, settings):
    """A fresh adapter with A and B both random: B = 0 would hide every mistake in A's gradient and in the scaling."""
    adapted = get_peft_model(model, LoraConfig(**{**LORA, **settings}))
    with torch.no_grad():
        for i, (name, p) in enumerate(sorted(adapted.named_parameters())):
            if "lora_A" in name:
                p.copy_(random(5000 + i, p.shape, 1 / math.sqrt(p.shape[1])))
            elif "lora_B" in name:
                p.copy_(random(6000 + i, p.shape, 0.1))
    return adapted


def trained_parameters(model):
    return {peft_key(n): p for n, p in model.named_parameters() if p.requires_grad}


def gradients(model, parameters, batch):
    for p in parameters.values():
        p.grad = None
    out = model(**batch.padded())
    out.loss.backward()
    return out, {name: p.grad.clone() for name, p in parameters.items()}


ADAMW = dict(lr=LEARNING_RATE, betas=(0.9, 0.95), eps=1e-8)


def train(model, optimizer, batches, steps=STEPS):
    """The first steps of 20: loss and gradient norm before the step, and the learning rate of the step."""
    parameters = [p for g in optimizer.param_groups for p in g["params"]]
    schedule = get_cosine_schedule_with_warmup(optimizer, WARMUP_STEPS, STEPS)
    record = dict(loss=[], grad_norm=[], learning_rate=[])
    for step in range(steps):
        loss = model(**batches[step % len(batches)].padded()).loss
        optimizer.zero_grad()
        loss.backward()
        record["loss"].append(loss.item())
        record["grad_norm"].append(float(torch.nn.utils.clip_grad_norm_(parameters, 1.0)))
        record["learning_rate"].append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return record


def decays(name):
    """As transformers' Trainer: no weight decay on norms and biases."""
    return "norm" not in name and not name.endswith("bias")


def decay_groups(named):
    return [dict(params=[p for n, p in named if decays(n)], weight_decay=0.1),
            dict(params=[p for n, p in named if not decays(n)], weight_decay=0.0)]


def accumulate(model, first, second):
    """Two micro-batches as one step, every target token weighing the same."""
    parameters = trained_parameters(model)
    for p in parameters.values():
        p.grad = None
    tokens, total = [first.targets(), second.targets()], 0.0
    for batch, n in zip((first, second), tokens):
        loss = model(**batch.padded()).loss * (n / sum(tokens))
        loss.backward()
        total += loss.item()
    grads = {name: p.grad.clone() for name, p in parameters.items()}
    norm = math.sqrt(sum(float(g.double().square().sum()) for g in grads.values()))
    return dict(loss=total, grad_norm=norm, target_tokens=tokens), grads


def rounding(folder, adapter, batch, grads):
    """How far f32 is from f64 here: what a tolerance has to leave room for. Sample by sample, so padding is ruled out too."""
    model = PeftModel.from_pretrained(load(folder, torch.float64), adapter, is_trainable=True).double().eval()
    for ids, labels in zip(batch.ids, batch.labels):
        logits = model(input_ids=torch.from_numpy(ids)[None]).logits[0, :-1]
        # transformers takes the loss of logits.float() whatever the model's dtype; f64 throughout is done here
        targets = torch.from_numpy(labels[1:])
        (torch.nn.functional.cross_entropy(logits, targets, ignore_index=-100, reduction="sum") / batch.targets()).backward()
    worst = max(float((grads[n].double() - p.grad).norm() / p.grad.norm()) for n, p in trained_parameters(model).items())
    assert worst < 1e-5, (folder, worst)
    return dict(largest_relative_gradient_difference_f32_f64=worst)


def write_base(folder, kind, settings, seed, extras):
    model = build(kind, settings, seed)
    model.save_pretrained(folder, max_shard_size="40KB" if "sharded" in extras else "1GB")
    (folder / "generation_config.json").unlink(missing_ok=True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.v4.json").write_text(json.dumps(dialect_of_transformers_4(config), indent=2) + "\n")


def write_adapter(folder, adapter, settings):
    save_adapter(adapt(load(folder), settings), adapter)


def save_adapter(adapted, adapter):
    adapted.save_pretrained(adapter)
    tidy_adapter(adapter)


def tidy_adapter(adapter):
    """What changes from run to run, or names a folder of this machine."""
    (adapter / "README.md").unlink(missing_ok=True)
    config = json.loads((adapter / "adapter_config.json").read_text())
    for names in ("target_modules", "modules_to_save"):  # Python sets: their order changes from run to run
        config[names] = sorted(config[names]) if config[names] else None
    config["base_model_name_or_path"] = None
    (adapter / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def check_old_dialect(folder, logits, batch):
    config = AutoConfig.for_model(**json.loads((folder / "config.v4.json").read_text()))
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(load(folder).state_dict())
    with torch.no_grad():
        assert torch.equal(batch.rows(model.eval()(**batch.padded()).logits), logits), folder


def make_one(folder, name, seed):
    kind, settings, lora, extras = ARCHITECTURES[name]
    shutil.rmtree(folder, ignore_errors=True)
    adapter = folder / "adapter"
    write_base(folder, kind, settings, seed, extras)
    write_adapter(folder, adapter, lora)
    vocab = COMMON["vocab_size"]
    batch = Batch(1, vocab, [24, 15, 8])
    batches = [Batch(100 + i, vocab) for i in range(5)]
    fixtures = batch.tensors("")
    for i, b in enumerate(batches):
        fixtures.update(b.tensors(f"train.{i}."))

    base = load(folder)
    with torch.no_grad():
        out = base(**batch.padded())
        fixtures["base.logits"] = batch.rows(out.logits)
        prompt = batch.padded()["input_ids"][:1, :6]
        greedy = base.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=12, do_sample=False,
                               eos_token_id=None, pad_token_id=0)[0, 6:].tolist()
    golden = dict(
        model_type=kind, target_tokens=batch.targets(),
        optimizer=dict(kind="adamw", beta1=0.9, beta2=0.95, epsilon=1e-8, weight_decay=0.1, max_grad_norm=1.0,
                       learning_rate=LEARNING_RATE, schedule="cosine", warmup_steps=WARMUP_STEPS, steps=STEPS,
                       batch="train.{step % 5}"),
        base=dict(loss=out.loss.item(), greedy_12_from_first_6=greedy),
    )
    check_old_dialect(folder, fixtures["base.logits"], batch)

    adapted = PeftModel.from_pretrained(load(folder), adapter, is_trainable=True).eval()
    out, grads = gradients(adapted, trained_parameters(adapted), batch)
    fixtures["lora.logits"] = batch.rows(out.logits.detach())
    fixtures.update({f"lora.grad.{n}": g for n, g in grads.items()})
    golden["lora"] = dict(
        loss=out.loss.item(),
        scaling=adapted.base_model.model.model.layers[0].self_attn.q_proj.scaling["default"],
        rounding=rounding(folder, adapter, batch, grads),
    )
    accumulated, accumulated_grads = accumulate(adapted, *batches[:2])
    golden["lora"]["accumulate_train_0_and_1"] = accumulated
    if "accumulate" in extras:
        fixtures.update({f"accumulate.grad.{n}": g for n, g in accumulated_grads.items()})
    trained = PeftModel.from_pretrained(load(folder), adapter, is_trainable=True).train()
    golden["lora"]["train"] = train(trained, torch.optim.AdamW(trained_parameters(trained).values(), weight_decay=0.1, **ADAMW), batches)

    fixtures.update(merged(folder, adapter, extras))
    if "full" in extras:
        model = load(folder)
        out, grads = gradients(model, dict(model.named_parameters()), batch)
        fixtures.update({f"full.grad.{n}": g for n, g in grads.items()})
        named = list(model.named_parameters())  # once each: a tied head is the embedding
        groups = decay_groups(named)
        golden["full"] = dict(loss=out.loss.item(), not_decayed=sorted(n for n, _ in named if not decays(n)),
                              train=train(model.train(), torch.optim.AdamW(groups, **ADAMW), batches))
    save_file({k: v.contiguous() for k, v in fixtures.items()}, folder / "fixtures.safetensors")
    (folder / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")


def merged(folder, adapter, extras):
    """Merged weights of one layer (of all for llama, whose merge in bf16 is stored too)."""
    tensors = PeftModel.from_pretrained(load(folder), adapter).merge_and_unload(safe_merge=True).state_dict()
    base = load(folder).state_dict()
    changed = {n: w for n, w in tensors.items() if not torch.equal(w, base[n])}
    assert changed and all("_proj" in n for n in changed), sorted(changed)
    keep = {n: w for n, w in changed.items() if "bf16_merge" in extras or ".layers.1." in n}
    result = {f"merged.{n}": w for n, w in keep.items()}
    if "bf16_merge" in extras:
        # bf16(f32(W) + scaling * B A in f32): one rounding, so this can be held to bit equality
        half = PeftModel.from_pretrained(load(folder, torch.bfloat16), adapter, autocast_adapter_dtype=True).merge_and_unload()
        result.update({f"merged_bf16.{n}": w for n, w in half.state_dict().items() if n in changed and ".layers.1." in n})
    return result


def make(golden):
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for i, name in enumerate(ARCHITECTURES):
        make_one(golden / name, name, 1000 * (i + 1))
        print(name, flush=True)
