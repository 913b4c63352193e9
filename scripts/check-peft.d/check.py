"""Compares medtune with PEFT and transformers through their files. Started by scripts/check-peft."""
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", TQDM_DISABLE="1")

import numpy as np
import peft
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import gguf_files

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
GOLDEN = REPOSITORY / "tests" / "golden"
GGUF = REPOSITORY / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
TOLERANCE = 1e-4  # of a logit, f32

COMMON = dict(vocab_size=400, hidden_size=48, intermediate_size=88, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=2,
              max_position_embeddings=512, bos_token_id=1, eos_token_id=2, pad_token_id=2, dtype="float32")
# base: model type, config over COMMON, the adapter medtune trains, the adapter PEFT writes
BASES = {
    "llama": ("llama", dict(tie_word_embeddings=False), dict(), dict(r=3, lora_alpha=7, target_modules="all-linear")),
    "qwen2": ("qwen2", dict(tie_word_embeddings=True), dict(use_rslora="true", rank="6"),
              dict(r=5, lora_alpha=9, use_rslora=True, target_modules=["q_proj", "v_proj", "down_proj"])),
    "qwen3": ("qwen3", dict(head_dim=16, tie_word_embeddings=True), dict(target_modules='["q_proj", "o_proj", "up_proj"]'),
              dict(r=2, lora_alpha=1, target_modules="all-linear")),
    "llama-dora": ("llama", dict(tie_word_embeddings=False), dict(use_dora="true", modules_to_save='["embed_tokens", "lm_head"]'),
                   dict(r=3, lora_alpha=7, target_modules="all-linear", use_dora=True, modules_to_save=["lm_head", "norm"])),
    "qwen2-saved": ("qwen2", dict(tie_word_embeddings=True), dict(modules_to_save='["lm_head", "q_proj"]'),
                    dict(r=5, lora_alpha=9, target_modules=["v_proj"], modules_to_save=["embed_tokens"], ensure_weight_tying=True)),
}


class Medtune:
    def __init__(self, binary):
        self.binary = binary

    def run(self, *arguments):
        done = subprocess.run([self.binary, *map(str, arguments)], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"error: medtune {' '.join(map(str, arguments))} exited with {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def logits(self, model, ids, adapter=None):
        """(T, V) f32 logits of one sequence."""
        extra = ["--adapter", adapter] if adapter else []
        return torch.tensor(json.loads(self.run("logits", model, *extra, "--ids", ",".join(map(str, ids)), "--json")))


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def logits(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].float()


def randomise(parameters, seed):
    r = np.random.RandomState(seed)
    with torch.no_grad():
        for name, p in sorted(parameters):
            std = 0.1 if "norm" in name or "bias" in name else 1 / math.sqrt(p.shape[-1])
            p.copy_(torch.from_numpy(r.standard_normal(p.shape).astype(np.float32) * std) + ("norm" in name))


def make_base(folder, kind, settings):
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**COMMON, **settings}))
    randomise(model.named_parameters(), 11)
    model.tie_weights()
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(GOLDEN / "tokenizers" / "smollm2" / name, folder)


def make_peft_adapter(base, folder, settings):
    model = get_peft_model(load(base), LoraConfig(lora_dropout=0.0, task_type="CAUSAL_LM", **settings))
    randomise([(n, p) for n, p in model.named_parameters() if "lora_A" in n or "lora_B" in n], 12)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.requires_grad and "lora_A" not in name and "lora_B" not in name:  # magnitudes, modules saved whole
                p.mul_(1.25)
    model.save_pretrained(folder)


def find(folder, name):
    found = sorted(folder.rglob(name))
    if not found:
        sys.exit(f"error: medtune wrote no {name} below {folder}")
    return found[0].parent


def difference(a, b):
    assert a.shape == b.shape, (a.shape, b.shape)
    return float((a - b).abs().max())


def check_gguf(report, medtune, work):
    """Models of every family, an adapter of each kind, and SmolLM2, as GGUF files."""
    texts = ["Does aspirin lower the risk of 1234?\n", "  two  spaces", "na\u00efve caf\u00e9 \u2603"]
    ids = np.random.RandomState(5).randint(3, COMMON["vocab_size"], size=40).tolist()
    families = {"llama": dict(hidden_size=96, intermediate_size=512), "qwen2": dict(hidden_size=96, intermediate_size=160, tie_word_embeddings=True),
                # transformers reads no head width from a qwen3 file, and takes its default.
                "qwen3": dict(head_dim=128, hidden_size=256, intermediate_size=512, tie_word_embeddings=True)}
    for kind, settings in families.items():
        folder = work / f"gguf-{kind}" / "base"
        make_base(folder, kind, settings)
        kinds = ["f32", "f16", "bf16", "q8_0", "q4_k"]
        gguf_files.check_model(report, medtune, folder.parent, kind, folder, load, ids, texts, kinds)
        for name, lora in (("plain", dict(r=3, lora_alpha=7)), ("rslora", dict(r=5, lora_alpha=9, use_rslora=True))):
            adapter = folder.parent / name
            make_peft_adapter(folder, adapter, dict(target_modules="all-linear", **lora))
            gguf_files.check_adapter(report, medtune, folder.parent, f"{kind}-{name}", folder, adapter, load)
    rope = dict(rope_theta=500000.0, rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=128)
    make_base(work / "gguf-rope" / "base", "llama", dict(rope_parameters=rope, head_dim=16))
    gguf_files.check_rope(report, medtune, work / "gguf-rope" / "base", load)
    folder = work / "smollm2"
    sequence = json.loads((GOLDEN / "smollm2" / "golden.json").read_text())["sequences"][0]["input_ids"]
    gguf_files.check_model(report, medtune, work, "SmolLM2", folder, load, sequence, gguf_files.smollm2_answers(GOLDEN), ["f16", "q8_0", "q4_k"])
    gguf_files.check_metadata(report, work / "SmolLM2.f16.gguf", GGUF)


class Report:
    def __init__(self):
        self.checks = []

    def add(self, name, ok, **facts):
        self.checks.append(dict(check=name, passed=bool(ok), **facts))
        print("ok    " if ok else "FAILED", name, facts, flush=True)

    def logits(self, name, ours, theirs, tolerance=TOLERANCE):
        d = difference(ours, theirs)
        self.add(name, d <= tolerance, max_abs_logit_difference=d, tolerance=tolerance, largest_logit=float(theirs.abs().max()))


def check_architecture(report, medtune, work, name):
    kind, settings, lora, by_peft = BASES[name]
    base, run = work / name / "base", work / name / "run"
    make_base(base, kind, settings)
    ids = np.random.RandomState(5).randint(3, COMMON["vocab_size"], size=40).tolist()
    plain = logits(load(base), ids)
    report.logits(f"{name}: base in transformers and in medtune", medtune.logits(base, ids), plain)

    recipe = work / name / "recipe.toml"
    shutil.copy(HERE / "recipe.toml", recipe)
    shutil.copy(HERE / "conversations.jsonl", work / name)
    sets = [f"model.path={base}"] + [f"adapter.lora.{k}={v}" for k, v in lora.items()]
    options = [x for s in sets for x in ("--set", s)] + ["--out", run, "--data-root", work / name]
    medtune.run("train", recipe, *options)
    adapter = find(run / "adapter", "adapter_config.json")
    with_adapter = logits(PeftModel.from_pretrained(load(base), adapter).eval(), ids)
    moved = difference(with_adapter, plain)
    report.add(f"{name}: training moved the logits", moved > 1e-2, max_abs_logit_difference=moved)
    report.logits(f"{name}: adapter of medtune in PEFT and in medtune", medtune.logits(base, ids, adapter), with_adapter)

    medtune.run("merge", recipe, *options)
    merged = find(run / "merged", "config.json")
    tokenizer = AutoTokenizer.from_pretrained(merged)
    text = "Does aspirin lower the risk of 1234?\n"
    report.add(f"{name}: tokenizer of the merged folder", tokenizer.encode(text) == AutoTokenizer.from_pretrained(base).encode(text))
    in_transformers = logits(load(merged), ids)
    report.logits(f"{name}: merged folder in transformers, adapter in PEFT", in_transformers, with_adapter)
    report.logits(f"{name}: merged folder in transformers and in medtune", medtune.logits(merged, ids), in_transformers)

    theirs = work / name / "peft"
    make_peft_adapter(base, theirs, by_peft)
    with_theirs = logits(PeftModel.from_pretrained(load(base), theirs).eval(), ids)
    assert difference(with_theirs, plain) > 1e-2
    report.logits(f"{name}: adapter of PEFT in PEFT and in medtune", medtune.logits(base, ids, theirs), with_theirs)
    into = work / name / "merged-peft"
    medtune.run("merge", "--base", base, "--adapter", theirs, "--into", into)
    ours, expected = load(into).state_dict(), PeftModel.from_pretrained(load(base), theirs).merge_and_unload().state_dict()
    worst = max(difference(ours[n], expected[n]) for n in expected)
    report.add(f"{name}: adapter of PEFT merged by medtune and by PEFT", ours.keys() == expected.keys() and worst <= 1e-6,
               max_abs_weight_difference=worst, tolerance=1e-6)


def save_random(base, folder, seed, **settings):
    model = get_peft_model(load(base), LoraConfig(lora_dropout=0.0, task_type="CAUSAL_LM", **settings))
    randomise([(n, p) for n, p in model.named_parameters() if "lora_" in n], seed)
    model.save_pretrained(folder)


def check_algebra(report, medtune, work):
    """Adapters that medtune combines, resizes and extracts, in PEFT; combined also against add_weighted_adapter."""
    place = work / "algebra"
    base = place / "base"
    make_base(base, "llama", dict(tie_word_embeddings=False))
    ids = np.random.RandomState(6).randint(3, COMMON["vocab_size"], size=40).tolist()
    save_random(base, place / "a", 21, r=3, lora_alpha=7, target_modules=["q_proj", "v_proj", "down_proj"])
    save_random(base, place / "b", 22, r=3, lora_alpha=4, use_rslora=True, target_modules=["v_proj", "up_proj"])
    save_random(base, place / "c", 23, r=5, lora_alpha=2, target_modules="all-linear")
    weights = dict(a=0.6, b=-0.3, c=0.8)

    def in_peft(adapter):
        return logits(PeftModel.from_pretrained(load(base), adapter).eval(), ids)

    def combined_by_peft(names, method, density):
        model = PeftModel.from_pretrained(load(base), place / names[0], adapter_name=names[0])
        for name in names[1:]:
            model.load_adapter(place / name, adapter_name=name)
        model.add_weighted_adapter(list(names), [weights[n] for n in names], "x", combination_type=method, density=density)
        model.set_adapter("x")
        return logits(model.eval(), ids)

    for method, theirs, names, density in [("linear", "cat", "abc", None), ("ties", "ties", "ab", 0.4), ("dare-linear", "linear", "ab", 1.0),
                                           ("dare-ties", "dare_ties", "ab", 1.0), ("ties-svd", "ties_svd", "abc", 0.4)]:
        out = place / method
        options = ["--weights=" + ",".join(str(weights[n]) for n in names), "--method", method]
        options += [] if density is None else ["--density", density]
        medtune.run("adapter", "combine", out, *(place / n for n in names), *options)
        expected = combined_by_peft(names, theirs, density)
        report.logits(f"combined by medtune ({method}) and by PEFT ({theirs}), both in PEFT", in_peft(out), expected)
        report.logits(f"combined by medtune ({method}), in medtune and in PEFT", medtune.logits(base, ids, out), expected)

    medtune.run("adapter", "resize", place / "b", place / "larger", "--rank", 7)
    report.logits("resized from rank 3 to 7 by medtune, in PEFT", in_peft(place / "larger"), in_peft(place / "b"))
    medtune.run("adapter", "resize", place / "linear", place / "smaller", "--rank", 9)
    report.logits("resized from rank 11 to 9 by medtune, in medtune and in PEFT", medtune.logits(base, ids, place / "smaller"), in_peft(place / "smaller"))

    tuned = place / "tuned"
    medtune.run("merge", "--base", base, "--adapter", place / "c", "--into", tuned)
    medtune.run("adapter", "extract", base, tuned, place / "extracted", "--rank", 5)
    report.logits("extracted by medtune at the rank of the update, in PEFT", in_peft(place / "extracted"), logits(load(tuned), ids))

    model = load(base)
    randomise(model.named_parameters(), 31)
    model.save_pretrained(place / "other")
    medtune.run("adapter", "extract", base, place / "other", place / "whole", "--rank", 4, "--save-rest")
    report.logits("extracted by medtune with the rest saved whole, in medtune and in PEFT", medtune.logits(base, ids, place / "whole"), in_peft(place / "whole"))


def check_convert(report, medtune, work):
    if not GGUF.exists():
        sys.exit(f"error: {GGUF} is missing\nhint: scripts/fetch-smollm2 --gguf-only")
    golden = json.loads((GOLDEN / "smollm2" / "golden.json").read_text())
    folder = work / "smollm2"
    medtune.run("convert", GGUF, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    same = [tokenizer.encode(t["text"], add_special_tokens=False) == t["ids"] for t in golden["texts"]]
    report.add("SmolLM2: ids of the converted tokenizer in transformers", all(same), texts=len(same))
    rendered = tokenizer.apply_chat_template(golden["chat"]["messages"], tokenize=False)
    report.add("SmolLM2: chat template of the converted tokenizer", rendered == golden["chat"]["rendered"])
    model = load(folder)
    positions, same, worst = 0, 0, 0.0
    for s in golden["sequences"]:
        out = logits(model, s["input_ids"])
        positions += len(s["input_ids"])
        same += int((out.argmax(-1) == torch.tensor(s["top1"])).sum())
        worst = max(worst, float((out[:, golden["sampled_ids"]] - torch.tensor(s["sampled_logits"])).abs().max()))
    report.add("SmolLM2: converted folder in transformers, GGUF in transformers", same == positions and worst <= 1e-2,
               positions=positions, same_top1=same, max_abs_logit_difference=worst, tolerance=1e-2, dtype=str(model.config.dtype))


def main():
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    medtune, report = Medtune(sys.argv[1]), Report()
    with tempfile.TemporaryDirectory(prefix="check-peft-") as work:
        for name in BASES:
            check_architecture(report, medtune, Path(work), name)
        check_algebra(report, medtune, Path(work))
        check_convert(report, medtune, Path(work))
        check_gguf(report, medtune, Path(work))
    result = dict(medtune=medtune.run("--version").strip(), torch=torch.__version__, transformers=transformers.__version__,
                  peft=peft.__version__, passed=all(c["passed"] for c in report.checks), checks=report.checks)
    (GOLDEN / "check-peft.json").write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(0 if result["passed"] else 1)


main()
