"""Generates and scores with transformers for scripts/bench-generate.

usage: generate_peer.py items ROWS.jsonl FOLDER PROMPTS ITEMS           writes FOLDER/prompts.jsonl and FOLDER/choices.jsonl
       generate_peer.py generate MODEL f32|bf16 FILE BATCH NEW_TOKENS   greedy, with transformers' KV cache
       generate_peer.py score MODEL f32|bf16 FILE                       an item's options as one padded batch, as
                                                                        lm-evaluation-harness's Hugging Face model does
Prints one line of JSON: items, seconds (without loading), the most memory (VmHWM), and the token ids or log-likelihoods.
"""

import json
import os
import sys
import time
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", CUDA_VISIBLE_DEVICES="")
THREADS = 2
OPTIONS = 4


def lines(path):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def write_items(rows, folder, prompts, items):
    """Prompts of some 30 tokens; items of some 300 tokens of text, a question, and OPTIONS beginnings of answers to choose from."""
    rows, folder = lines(rows), Path(folder)
    prompts, items = int(prompts), int(items)
    with open(folder / "prompts.jsonl", "w", encoding="utf-8") as out:
        for row in rows[:prompts]:
            out.write(json.dumps({"prompt": f"Question: {row['instruction']}\nAnswer:"}) + "\n")
    with open(folder / "choices.jsonl", "w", encoding="utf-8") as out:
        for item in range(items):
            some = rows[prompts + item * OPTIONS :][:OPTIONS]
            context = "\n".join(row["output"] for row in some[:2])
            options = [" " + " ".join(row["output"].split()[:8]) for row in some]
            out.write(json.dumps({"prompt": f"{context}\nQuestion: {some[3]['instruction']}\nAnswer:", "options": options}) + "\n")


def generate(model, tokenizer, items, batch, new_tokens):
    """The new ids of each item, without the end of the sequence."""
    tokenizer.padding_side = "left"
    generated = []
    for at in range(0, len(items), batch):
        inputs = tokenizer([item["prompt"] for item in items[at : at + batch]], return_tensors="pt", padding=True, add_special_tokens=False)
        ids = model.generate(**inputs, max_new_tokens=new_tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id)
        for row in ids[:, inputs["input_ids"].shape[1] :].tolist():
            end = row.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in row else len(row)
            generated.append(row[:end])
    return generated


def score(model, tokenizer, items):
    """ln p of each option: contexts are encoded with their options and cut, logits of the whole batch are normalised."""
    import torch

    scores = []
    for item in items:
        context = tokenizer(item["prompt"], add_special_tokens=False)["input_ids"]
        rows = [tokenizer(item["prompt"] + option, add_special_tokens=False)["input_ids"] for option in item["options"]]
        longest = max(len(row) - 1 for row in rows)
        ids, mask = torch.zeros(len(rows), longest, dtype=torch.long), torch.zeros(len(rows), longest, dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, : len(row) - 1], mask[i, : len(row) - 1] = torch.tensor(row[:-1]), 1
        log_probs = torch.log_softmax(model(input_ids=ids, attention_mask=mask).logits.float(), dim=-1)
        of_item = []
        for i, row in enumerate(rows):
            positions = torch.arange(len(context) - 1, len(row) - 1)
            of_item.append(float(log_probs[i, positions, torch.tensor(row[len(context) :])].double().sum()))
        scores.append(of_item)
    return scores


def main():
    what, *arguments = sys.argv[1:]
    if what == "items":
        return write_items(*arguments)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, precision, file, *sizes = arguments
    torch.set_num_threads(THREADS)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype={"f32": torch.float32, "bf16": torch.bfloat16}[precision]).eval()
    items = lines(file)
    with torch.inference_mode():
        started = time.perf_counter()
        if what == "generate":
            results = {"generated": generate(model, tokenizer, items, *map(int, sizes))}
        else:
            results = {"scores": score(model, tokenizer, items)}
        secs = time.perf_counter() - started
    peak = next(int(line.split()[1]) / 1024 for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    print(json.dumps({"items": len(items), "secs": secs, "peak_mib": peak, **results}))


main()
