"""What lm-evaluation-harness' HFLM gives the options of made-up items, on a tiny seeded model with two kinds of tokenizer.

usage: lm_eval_scores.py      (in the environment of scripts/check-lm-eval.d/setup; writes tests/golden/lm_eval)
"""
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")

# `statistics.py` beside this file is not the library's.
here = sys.path.pop(0)
import statistics  # the library's, before others look for it

import lm_eval
import peft
import torch
import transformers
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

sys.path.insert(0, here)
import models

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden"
# byte-level BPE that adds nothing, and SentencePiece's with a first token and a space put before the text
TOKENIZERS = ["smollm2", "llama2_json"]
SETTINGS = dict(vocab_size=480, hidden_size=36, intermediate_size=56, num_attention_heads=6, num_key_value_heads=2,
                max_position_embeddings=256, rope_parameters=models.rope(), tie_word_embeddings=True)

YES = [" yes", " no", " maybe"]
LETTERS = [" A", " B", " C", " D", " E"]
ITEMS = [
    ("Does aspirin lower the risk of a stroke?\nThe answer is:", YES),
    ("Question: what is the dose of metformin?\nAnswer:", [" 500 mg twice a day", " 5 mg", " 2000 mg once", " none"]),
    ("The patient has chest pain. The answer is", LETTERS),
    ("Blood was taken for culture at 39.5 degrees.\nA. fever\nB. cough\nAnswer:", LETTERS[:2]),
    ("A β-blocker lowers the heart rate ≥5 %.\nTrue or false?", [" true", " false"]),
    ("café naïve", [" naïve café", " cafe\u0301", " 🩺"]),
    ("Options:\nyes\nno\n\nAnswer:", ["\nyes", "\nno"]),
    # White space at a prompt's end: it belongs to the options, as a model has read such text.
    ("Is it so? Answer: ", ["yes", "no"]),
    ("Is it so? Answer:  ", ["yes", "no"]),
    ("Is it so?\nAnswer:\n", ["yes", "no", " maybe"]),
    ("Is it so?\n\nAnswer:\n\n", ["yes it is", "no it is not"]),
    ("Does it end in a tab?\t", ["yes", "no"]),
    ("1234567890 and 3.14 are", [" numbers", " 12", " 3"]),
    ("What follows is punctuation", [".", "!", "...", ", then more"]),
    ("The antibiotic was started on day", [" 1", " 10", " one", " 2021-06-30"]),
    ("two  and   three spaces", ["  again", " again"]),
    ("<|im_start|>user\nDoes it?<|im_end|>\n<|im_start|>assistant\n", ["yes", "no"]),
    ("X", [" a", " b"]),
    ("中文医学", [" 中", " 文"]),
    # A beginning that several prompts have in common, and options of one token.
    *((f"Choose the word that follows, as a doctor would.\n{question}\nThe answer is", [" no", " a", " the", " of", " pain"])
      for question in ("What lowers the heart rate?", "What lowers the risk of a stroke?", "Which dose?", "What was taken for culture?")),
    ("She said \"I don't know\" and", [" left", "'s gone", " we've left"]),
]


def make(golden):
    folder = golden / "lm_eval"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    model = models.build("llama", SETTINGS, 4711)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    answers = {}
    for kind in TOKENIZERS:
        with tempfile.TemporaryDirectory() as temporary:
            for file in [folder / "config.json", folder / "model.safetensors",
                         *(golden / "tokenizers" / kind / name for name in ("tokenizer.json", "tokenizer_config.json"))]:
                shutil.copy(file, temporary)
            hf = HFLM(pretrained=temporary, dtype="float32", device="cpu", batch_size=3)
            requests = [Instance("loglikelihood", {}, (text, option), 0) for text, options in ITEMS for option in options]
            scores = iter(hf.loglikelihood(requests, disable_tqdm=True))
            answers[kind] = [[next(scores) for _ in options] for _, options in ITEMS]
    found = dict(
        lm_eval=lm_eval.__version__, transformers=transformers.__version__, torch=torch.__version__,
        items=[dict(prompt=text, options=options,
                    **{kind: dict(log_likelihoods=[s[0] for s in answers[kind][i]], greedy=[s[1] for s in answers[kind][i]])
                       for kind in TOKENIZERS}) for i, (text, options) in enumerate(ITEMS)],
    )
    (folder / "golden.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


make(GOLDEN)
