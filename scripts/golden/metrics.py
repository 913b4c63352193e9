"""Writes eval/tests/golden/metrics.json: answers and the scores that the field's own packages give them.

usage: pip install scikit-learn==1.9.1 seqeval==1.2.2 rouge-score==0.1.2; metrics.py

A case is a list of [gold, answer] (answer null: nothing could be extracted), the options it is about, and a score
for each metric. Texts are made up. SQuAD's script is no package, so its two functions are written out here.
"""
import collections
import json
import random
import re
import string
from pathlib import Path

from rouge_score import rouge_scorer
from seqeval.metrics import f1_score as seqeval_f1
from seqeval.scheme import IOB2
from sklearn.metrics import accuracy_score, f1_score

OUT = Path(__file__).resolve().parents[2] / "eval" / "tests" / "golden" / "metrics.json"
RANDOM = random.Random(20261122)


def choice_case(name, options, items):
    gold = [g for g, _ in items]
    # A missing answer is a class of nobody's: it is kept out of the labels that are averaged.
    answers = ["(missing)" if a is None else a for _, a in items]
    seen = sorted((set(gold) | set(answers)) - {"(missing)"})
    f1 = {m: f1_score(gold, answers, labels=seen, average=m, zero_division=0) for m in ("macro", "weighted", "micro")}
    scores = {"accuracy": accuracy_score(gold, answers)} | {f"{m}_f1": score for m, score in f1.items()}
    return {"name": name, "options": options, "items": items, "scores": scores}


def choice_cases():
    three = ["yes", "no", "maybe"]
    letters = list("ABCDE")
    forty = [f"specialty {i}" for i in range(40)]

    def draw(options, n, right, missing):
        items = []
        for _ in range(n):
            gold = RANDOM.choice(options)
            answer = gold if RANDOM.random() < right else RANDOM.choice(options)
            items.append([gold, None if RANDOM.random() < missing else answer])
        return items

    yield choice_case("three classes", three, draw(three, 60, 0.5, 0.1))
    yield choice_case("letters, all answered", letters, draw(letters, 60, 0.3, 0.0))
    yield choice_case("forty classes, many unseen", forty, draw(forty, 50, 0.4, 0.2))
    yield choice_case("one answer for all", three, [[g, "yes"] for g, _ in draw(three, 30, 0, 0)])
    yield choice_case("nothing extracted", three, [["yes", None], ["no", None]])
    yield choice_case("a class only answered", three, [["yes", "maybe"], ["yes", "yes"]])


def multi_label_case(name, options, items):
    def matrix(column):
        rows = [[label.strip() for label in (item[column] or "").split(";")] for item in items]
        return [[int(option in row) for option in options] for row in rows]

    scores = {"multi_label_f1": f1_score(matrix(0), matrix(1), average="macro", zero_division=0)}
    return {"name": name, "options": options, "items": items, "scores": scores}


def multi_label_cases():
    options = ["sustaining proliferative signaling", "resisting cell death", "cellular energetics", "inducing angiogenesis"]
    labels = lambda p: "; ".join(option for option in options if RANDOM.random() < p)
    items = [[labels(0.4), RANDOM.choice([None, labels(0.4), labels(0.7)])] for _ in range(40)]
    yield multi_label_case("hallmarks", options, items)
    yield multi_label_case("a label never named", options, [[options[0], options[0]], ["", options[1]]])


def squad_words(text):
    text = "".join(c for c in text.lower() if c not in set(string.punctuation))
    return re.sub(r"\b(a|an|the)\b", " ", text, flags=re.UNICODE).split()


def squad_f1(gold, answer):
    gold, answer = squad_words(gold), squad_words(answer)
    if not gold or not answer:
        return float(gold == answer)
    same = sum((collections.Counter(gold) & collections.Counter(answer)).values())
    if same == 0:
        return 0.0
    precision, recall = same / len(answer), same / len(gold)
    return 2 * precision * recall / (precision + recall)


ROUGE = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)


def text_case(name, items):
    mean = lambda score: sum(0.0 if a is None else score(g, a) for g, a in items) / len(items)
    scores = {
        "exact_match": mean(lambda g, a: float(squad_words(g) == squad_words(a))),
        "token_f1": mean(squad_f1),
        "rouge_l": mean(lambda g, a: ROUGE.score(g, a)["rougeL"].fmeasure),
    }
    return {"name": name, "options": [], "items": items, "scores": scores}


def text_cases():
    words = "the a an no acute cardiopulmonary disease small left effusion 5 mg daily-dose heart's size is normal .".split()
    sentence = lambda: " ".join(RANDOM.choice(words) for _ in range(RANDOM.randint(0, 14)))
    items = []
    for _ in range(40):
        gold = sentence()
        kept = " ".join(w for w in gold.split() if RANDOM.random() < 0.7)
        items.append([gold, RANDOM.choice([gold, kept, sentence(), kept + " " + sentence(), None])])
    yield text_case("sentences", items)
    awkward = [
        ["", ""], ["", "the"], ["the a an", "AN!"], ["...", "?!"], ["5.5 mg", "55mg"], ["5.5 mg", "5 5 MG"],
        ["na\u00efve caf\u00e9", "naive cafe"], ["na\u00efve caf\u00e9", "NA\u00cfVE CAF\u00c9"], ["\u03a3\u0399\u03a3 \u03b1", "\u03c3\u03b9\u03c2 \u0391"],
        ["\u201ca\u201d word", "\u201c\u201d word"], ["x\u2013the\u2013y", "x\u2013 \u2013y"], ["tab\tnew\nline", "tab new line"],
        ["non\u00a0breaking", "non breaking"], ["file\u001cseparator", "file separator"], ["under_score", "underscore"],
        ["under_score", "under score"], ["\u0130stanbul", "istanbul"], ["2 \u212a", "2 k"], ["x\u00b2", "x2"], ["\u4e2d\u6587 text", "text \u4e2d\u6587"],
        ["a-b", "ab"], ["the-end", "end"], ["an apple a day", "apple day"], ["theatre", "the atre"], ["pain pain", "pain"],
    ]
    for i, pair in enumerate(awkward):
        yield text_case(f"awkward {i}", [pair])


CLASSES = ["problem", "treatment", "test"]


def random_tags(n, density):
    tags, i = [], 0
    while i < n:
        if RANDOM.random() < density:
            length, entity = min(RANDOM.randint(1, 3), n - i), RANDOM.choice(CLASSES)
            tags += [f"B-{entity}"] + [f"I-{entity}"] * (length - 1)
            i += length
        else:
            tags.append("O")
            i += 1
    return tags


def altered(tags):
    """Some entities lost, some of another class, and some new ones where nothing stood."""
    out, drop, rename = [], False, None
    for tag in tags:
        if tag[0] == "B":
            drop, rename = RANDOM.random() < 0.2, RANDOM.choice(CLASSES) if RANDOM.random() < 0.2 else tag[2:]
        if tag == "O":
            out.append("B-" + RANDOM.choice(CLASSES) if RANDOM.random() < 0.1 else "O")
        else:
            out.append("O" if drop else tag[:2] + rename)
    return out


def marked_up(words, tags):
    text, open_ = "", False
    for word, tag in zip(words, tags):
        if open_ and tag[0] != "I":
            text, open_ = text + "</span>", False
        text += " " if text else ""
        if tag[0] == "B":
            text, open_ = text + f'<span class="{tag[2:]}">', True
        text += word
    return text + ("</span>" if open_ else "")


def entity_cases():
    vocabulary = "chest pain aspirin ECG denies fever was given started on left lower lobe pneumonia , ; & 5 <".split()
    for name, density, keep in [("entities", 0.3, 1.0), ("few entities", 0.05, 1.0), ("no answer to some", 0.3, 0.7)]:
        items, gold_tags, answer_tags = [], [], []
        for _ in range(15):
            words = [RANDOM.choice(vocabulary) for _ in range(RANDOM.randint(1, 25))]
            gold = random_tags(len(words), density)
            answer = altered(gold) if RANDOM.random() < keep else None
            items.append([marked_up(words, gold), None if answer is None else marked_up(words, answer)])
            gold_tags.append(gold)
            answer_tags.append(answer or ["O"] * len(words))
        f1 = lambda average: seqeval_f1(gold_tags, answer_tags, average=average, mode="strict", scheme=IOB2, zero_division=0)
        scores = {"entity_f1": f1("micro"), "entity_macro_f1": f1("macro")}
        yield {"name": name, "options": [], "items": items, "scores": scores}


def main():
    cases = [*choice_cases(), *multi_label_cases(), *text_cases(), *entity_cases()]
    OUT.parent.mkdir(parents=True, exist_ok=True)
    # One case a line: a change in one shows as one line.
    lines = ",\n".join(json.dumps(case) for case in cases)
    OUT.write_text(f"[\n{lines}\n]\n")
    print(f"{OUT}: {len(cases)} cases")


if __name__ == "__main__":
    main()
