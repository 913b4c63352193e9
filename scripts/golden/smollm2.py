"""SmolLM2-135M-Instruct out of its GGUF, as transformers runs it in f32: logits at 200 positions, and token ids."""
import json
import shutil
from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

FOLDER = Path(__file__).resolve().parents[2] / "models"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
POSITIONS = 200
SAMPLED = [0, 2, 28, 216, 260, 1095, 12345, 49151]  # the logits kept besides the largest

TEXTS = [
    "The capital of France is Paris, and the capital of Italy is Rome.",
    "A 54-year-old man presents with crushing chest pain radiating to the left arm, which began 3 hours ago.\n\n"
    "His blood pressure is 142/88 mmHg. The ECG shows ST elevation in leads II, III and aVF.",
    "Metformin 500 mg twice daily lowers HbA1c by about 1.12 percentage points in 2021-2023 trials (n=1234567).",
    "  two leading spaces, a tab\tand\n\n\nthree line breaks",
    "β-blockers ≥ 5 µg/mL: naïve café, 中文医学, 🩺💊 and 👩‍⚕️.",
    "don't DON'T we've I'LL she'd it's",
    "<|im_start|>user\nHi there<|im_end|>\n",
    "def f(x):\n    return x ** 2  # 10000000000\n",
]
CHAT = [
    {"role": "user", "content": "What is the capital of France?"},
    {"role": "assistant", "content": "The capital of France is Paris."},
    {"role": "user", "content": "Does aspirin lower the risk of a second heart attack? Answer yes, no or maybe."},
    {"role": "assistant", "content": "yes"},
]


def load():
    tokenizer = AutoTokenizer.from_pretrained(FOLDER, gguf_file=FILE)
    # transformers' GGUF reader drops tokenizer.ggml.pre = smollm: the original splits digits one by one
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    model = AutoModelForCausalLM.from_pretrained(FOLDER, gguf_file=FILE, dtype=torch.float32, attn_implementation="eager").eval()
    return tokenizer, model


def make(golden):
    if not (FOLDER / FILE).exists():
        raise SystemExit(f"error: models/{FILE} is missing\nhint: scripts/fetch-smollm2 --gguf-only")
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    tokenizer, model = load()
    rendered = tokenizer.apply_chat_template(CHAT, tokenize=False)
    sequences, left, smallest_margin = [], POSITIONS, float("inf")
    for text in [rendered, *TEXTS]:
        ids = tokenizer.encode(text, add_special_tokens=False)[:left]
        if not ids:
            break
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0]
        top = logits.topk(2, dim=-1)
        smallest_margin = min(smallest_margin, float((top.values[:, 0] - top.values[:, 1]).min()))
        sequences.append(dict(input_ids=ids, top1=top.indices[:, 0].tolist(), top1_logit=[round(x, 5) for x in top.values[:, 0].tolist()],
                              sampled_logits=[[round(x, 5) for x in row] for row in logits[:, SAMPLED].tolist()]))
        left -= len(ids)
    assert left == 0, left
    facts = dict(
        sampled_ids=SAMPLED, smallest_top1_margin=smallest_margin, sequences=sequences,
        texts=[dict(text=t, ids=tokenizer.encode(t, add_special_tokens=False)) for t in TEXTS],
        chat=dict(messages=CHAT, rendered=rendered, ids=tokenizer.encode(rendered, add_special_tokens=False)),
    )
    folder = golden / "smollm2"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "golden.json").write_text(json.dumps(facts) + "\n")
    print("smollm2: positions", POSITIONS, "smallest top-1 margin", smallest_margin, flush=True)
