"""Trains a model with transformers, PEFT and torch for scripts/bench-peft, on the rows and from the adapter that medtune gets.

usage: peft_peer.py prepare MODEL ROWS.jsonl FOLDER      writes FOLDER/rows.jsonl (the rows of 128 to 256 tokens),
                                                         FOLDER/documents.jsonl (their text) and FOLDER/adapter
       peft_peer.py train MODEL FOLDER [SETTING...]      prints a line of JSON a step, and one at the end

A step's seconds are those of forward, backward, clipping and AdamW. The last line has the resident memory after loading and
the most there was (VmHWM). Labels are medtune's: an answer's tokens up to its end-of-turn token, or every token of a document.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", CUDA_VISIBLE_DEVICES="")

import torch  # noqa: E402
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

ROWS_A_STEP, PADDED_TO, BLOCK = 4, 256, 1024
IGNORED = -100
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def lines(path):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def sample(tokenizer, row):
    """Ids and labels of one conversation."""
    prompt = [{"role": "user", "content": row["instruction"]}]
    full = prompt + [{"role": "assistant", "content": row["output"]}]
    prompt_ids = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)["input_ids"]
    ids = tokenizer.apply_chat_template(full, return_dict=True)["input_ids"]
    labels = [IGNORED] * len(prompt_ids) + ids[len(prompt_ids) :]
    # The line break behind the end of the turn is the template's and not the answer's.
    last = max(i for i, token in enumerate(ids) if token == tokenizer.eos_token_id)
    return ids, labels[: last + 1] + [IGNORED] * (len(ids) - last - 1)


def prepare(model, rows, folder):
    folder = Path(folder)
    tokenizer = AutoTokenizer.from_pretrained(model)
    kept = [row for row in lines(rows) if 128 <= len(sample(tokenizer, row)[0]) <= PADDED_TO]
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "rows.jsonl", "w", encoding="utf-8") as out:
        out.writelines(json.dumps(row) + "\n" for row in kept)
    with open(folder / "documents.jsonl", "w", encoding="utf-8") as out:
        out.writelines(json.dumps({"text": row["instruction"] + "\n" + row["output"]}) + "\n" for row in kept)
    torch.manual_seed(7)
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    lora = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, bias="none", task_type="CAUSAL_LM", target_modules=TARGETS)
    get_peft_model(base, lora).save_pretrained(folder / "adapter")


def padded(samples):
    """Rows of PADDED_TO ids, pads behind."""
    ids = torch.zeros(len(samples), PADDED_TO, dtype=torch.long)
    labels, mask = torch.full_like(ids, IGNORED), torch.zeros_like(ids)
    for i, (row, row_labels) in enumerate(samples):
        ids[i, : len(row)], labels[i, : len(row)], mask[i, : len(row)] = torch.tensor(row), torch.tensor(row_labels), 1
    return {"input_ids": ids, "labels": labels, "attention_mask": mask}


def packed(samples):
    """One row of all ids under a plain causal mask: a sample sees those before it, which is faster and not the same training."""
    return {
        "input_ids": torch.tensor([[token for ids, _ in samples for token in ids]]),
        "labels": torch.tensor([[label for _, labels in samples for label in labels]]),
    }


def batches(args, tokenizer):
    """The model's inputs and the real tokens of each step."""
    if args.workload == "documents":
        stream = []
        for row in lines(args.folder / "documents.jsonl"):
            stream += tokenizer(row["text"], add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        blocks = [stream[at : at + BLOCK] for at in range(0, len(stream) - BLOCK + 1, BLOCK)]
        return [(packed([(block, block)]), BLOCK) for block in blocks]
    samples = [sample(tokenizer, row) for row in lines(args.folder / "rows.jsonl")]
    steps = [samples[at : at + ROWS_A_STEP] for at in range(0, len(samples) - ROWS_A_STEP + 1, ROWS_A_STEP)]
    layout = {"padded": padded, "packed": packed}[args.layout]
    return [(layout(step), sum(len(ids) for ids, _ in step)) for step in steps]


def build(args):
    dtype = torch.bfloat16 if args.precision == "bf16" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype)
    model.config.use_cache = False
    if args.method == "lora":
        config = PeftConfig.from_pretrained(args.folder / "adapter")
        config.lora_dropout, config.inference_mode = args.dropout, False
        model = PeftModel.from_pretrained(model, args.folder / "adapter", is_trainable=True, config=config)
    if args.recompute:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if args.method == "lora":
            model.enable_input_require_grads()
    return model.train()


def status_mib(key):
    """VmRSS or VmHWM of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return round(int(line.split()[1]) / 1024, 1)
    return None


def train(args):
    torch.set_num_threads(args.threads)
    torch.manual_seed(7)
    steps = batches(args, AutoTokenizer.from_pretrained(args.model))
    model = build(args)
    loaded_mib = status_mib("VmRSS")
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=args.learning_rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    forward = torch.compile(model) if args.compile else model
    for number in range(args.steps):
        batch, tokens = steps[number % len(steps)]
        started = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.precision != "f32"):
            loss = forward(**batch).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        grad_norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        loss = loss.item()
        secs = time.perf_counter() - started
        targets = int((batch["labels"][:, 1:] != IGNORED).sum())
        line = {"step": number + 1, "secs": secs, "loss": loss, "grad_norm": float(grad_norm), "tokens": tokens, "target_tokens": targets}
        print(json.dumps(line), flush=True)
    print(json.dumps({"loaded_mib": loaded_mib, "peak_mib": status_mib("VmHWM"), "trained": sum(p.numel() for p in trained)}))


def settings():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workload", choices=["instructions", "documents"], default="instructions")
    parser.add_argument("--method", choices=["lora", "full"], default="lora")
    parser.add_argument("--layout", choices=["padded", "packed"], default="padded")
    # autocast: f32 weights under torch.autocast; bf16: the base's weights held in bf16 (adapters in f32), under autocast.
    parser.add_argument("--precision", choices=["f32", "autocast", "bf16"], default="f32")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--recompute", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args(sys.argv[2:])


if sys.argv[1] == "prepare":
    prepare(*sys.argv[2:])
else:
    train(settings())
