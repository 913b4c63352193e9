#!/usr/bin/env python3
"""Writes eval/tests/golden/ranked.json: ranked answers and the share of them with a right name among the first k.

    scripts/golden/ranked.py eval/tests/golden/ranked.json

Names are normalised as SQuAD's evaluation script normalises answers (Rajpurkar et al. 2016, evaluate-v1.1.py): lower case,
no punctuation, no articles, single spaces. Needs nothing but Python.
"""

import json
import random
import re
import string
import sys


def normal(text):
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def names(text):
    return [name for name in map(normal, text.split("\n")) if name]


def top(items, k):
    hits = [bool(answer is not None and set(names(gold)) & set(names(answer)[:k])) for gold, answer in items]
    return sum(hits) / len(hits)


def main():
    draw = random.Random(11)
    diseases = ["Sarcoidosis", "Lyme disease", "Crohn's disease", "the flu", "Type-2 diabetes", "Sjögren syndrome", "gout"]
    write = [str.upper, str.lower, lambda s: f" {s}. ", lambda s: f"A {s}", lambda s: s + " of the lung", lambda s: s]
    cases = []
    for name, most in (("short lists", 4), ("long lists", 9)):
        items = []
        for _ in range(57):
            gold = "\n".join(draw.sample(diseases, draw.randint(1, 3)))
            listed = [draw.choice(write)(disease) for disease in draw.choices(diseases, k=draw.randint(0, most))]
            if draw.random() < 0.2:
                listed.insert(0, draw.choice(["", "...", "the"]))
            items.append((gold, None if draw.random() < 0.1 else "\n".join(listed)))
        scores = {f"top_{k}": top(items, k) for k in (1, 3, 5)}
        cases.append({"name": name, "options": [], "items": items, "scores": scores})
    with open(sys.argv[1], "w", encoding="utf-8") as out:
        out.write("[\n" + ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases) + "\n]\n")


main()
