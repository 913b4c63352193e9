"""Instruction rows to ids and labels with datasets.map, in one of three variants.

usage: tokenize_peer.py map|batched|by_hand ROWS.jsonl MODEL CACHE

Prints one line of JSON. Only the mapping is timed: in seconds, and in CPU seconds of this process and its two workers.
"""

import json
import os
import resource
import shutil
import sys
import time

variant, rows_file, model, cache = sys.argv[1:]
os.environ.update(HF_HUB_OFFLINE="1", HF_HOME=cache, HF_DATASETS_DISABLE_PROGRESS_BARS="1", TOKENIZERS_PARALLELISM="false")
shutil.rmtree(cache, ignore_errors=True)

from datasets import load_dataset  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402

MAX_SEQ_LEN = 1024
IGNORED = -100
tokenizer = AutoTokenizer.from_pretrained(model)


def question(row):
    return row["instruction"] + ("\n" + row["input"] if row["input"] else "")


def chat(row):
    """The prompt's messages and all messages."""
    prompt = [{"role": "user", "content": question(row)}]
    return prompt, prompt + [{"role": "assistant", "content": row["output"]}]


def sample(prompt_ids, ids):
    ids = ids[:MAX_SEQ_LEN]
    labels = ([IGNORED] * len(prompt_ids) + ids[len(prompt_ids) :])[: len(ids)]
    return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels}


def columns(samples):
    return {name: [one[name] for one in samples] for name in ("input_ids", "attention_mask", "labels")}


def rows_of(batch):
    return [dict(zip(batch, values)) for values in zip(*batch.values())]


def one_by_one(row):
    """The usual way: the template is applied and tokenized twice, to know where the prompt ends."""
    prompt, full = chat(row)
    prompt_ids = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)["input_ids"]
    return sample(prompt_ids, tokenizer.apply_chat_template(full, return_dict=True)["input_ids"])


def batched(batch):
    """The template as text, prompts and answers tokenized by one call each."""
    prompts, answers = [], []
    for row in rows_of(batch):
        prompt, full = chat(row)
        prompts.append(tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False))
        answers.append(tokenizer.apply_chat_template(full, tokenize=False)[len(prompts[-1]) :])
    prompts = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    answers = tokenizer(answers, add_special_tokens=False)["input_ids"]
    return columns([sample(p, p + a) for p, a in zip(prompts, answers)])


SYSTEM = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"


def by_hand(batch):
    """SmolLM2's template written out, and the tokenizer below transformers: the least Python there can be."""
    rows = rows_of(batch)
    prompts = [f"{SYSTEM}<|im_start|>user\n{question(row)}<|im_end|>\n<|im_start|>assistant\n" for row in rows]
    answers = [row["output"] + "<|im_end|>\n" for row in rows]
    encode = tokenizer._tokenizer.encode_batch_fast
    ids = zip(encode(prompts, add_special_tokens=False), encode(answers, add_special_tokens=False))
    samples = [(p.ids, (p.ids + a.ids)[:MAX_SEQ_LEN]) for p, a in ids]
    return {
        "input_ids": [ids for _, ids in samples],
        "labels": [([IGNORED] * len(p) + ids[len(p) :])[: len(ids)] for p, ids in samples],
    }


def cpu_secs():
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


rows = load_dataset("json", data_files=rows_file, split="train")
function = {"map": one_by_one, "batched": batched, "by_hand": by_hand}[variant]
start, cpu = time.perf_counter(), cpu_secs()
mapped = rows.map(function, batched=variant != "map", batch_size=1000, num_proc=2, remove_columns=rows.column_names)
wall, cpu = time.perf_counter() - start, cpu_secs() - cpu
tokens = sum(len(ids) for batch in mapped.with_format("arrow").iter(1000) for ids in batch["input_ids"])
figures = {"what": variant, "rows": len(rows), "tokens": tokens, "wall_secs": wall, "cpu_secs": cpu}
figures |= {"rows_per_cpu_sec": round(len(rows) / cpu), "tokens_per_cpu_sec": round(tokens / cpu)}
print(json.dumps(figures))
