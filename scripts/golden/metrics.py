"""Writes eval/tests/golden/{metrics,bert_score}.json and stems.txt: what the field's own packages make of answers.

usage: pip install scikit-learn==1.9.1 seqeval==1.2.2 rouge-score==0.1.2 nltk==3.10.4 nervaluate==1.2.1 beautifulsoup4==4.15.0
       metrics.py

A case is a list of [gold, answer] (answer null: nothing could be extracted), the options it is about, and a score
for each metric. Paper-compatible metrics read the answer as the raw text. Texts are made up. SQuAD's script is no
package, so its two functions are written out here; so are calibration, perplexity and bert_score's matching, and in
paper_scorer.py the released Me-LLaMA scorer.
"""
import collections
import json
import math
import random
import re
import string
from pathlib import Path

import numpy as np
import paper_scorer
from nervaluate import Evaluator
from nltk.stem.porter import PorterStemmer
from rouge_score import rouge_scorer
from seqeval.metrics import f1_score as seqeval_f1
from seqeval.scheme import IOB2
from sklearn.metrics import accuracy_score, f1_score

OUT = Path(__file__).resolve().parents[2] / "eval" / "tests" / "golden"
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

    f1 = lambda average: f1_score(matrix(0), matrix(1), average=average, zero_division=0)
    scores = {
        "multi_label_f1": f1("macro"), "multi_label_micro_f1": f1("micro"), "multi_label_example_f1": f1("samples"),
    }
    return {"name": name, "options": options, "items": items, "scores": scores}


def multi_label_cases():
    options = ["sustaining proliferative signaling", "resisting cell death", "cellular energetics", "inducing angiogenesis"]
    labels = lambda p: "; ".join(option for option in options if RANDOM.random() < p)
    items = [[labels(0.4), RANDOM.choice([None, labels(0.4), labels(0.7)])] for _ in range(40)]
    yield multi_label_case("hallmarks", options, items)
    yield multi_label_case("nothing named", options, [["", None], ["", ""]])
    yield multi_label_case("a label named twice", options, [[f"{options[0]}; {options[0]}", f"{options[0]};;{options[0]} ; "]])
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


ROUGE_TYPES = {"rouge1": "rouge_1", "rouge2": "rouge_2", "rougeL": "rouge_l", "rougeLsum": "rouge_lsum"}
ROUGE = {end: rouge_scorer.RougeScorer(list(ROUGE_TYPES), use_stemmer=end != "") for end in ("", "_stemmed")}


def rouge(items):
    scores = {}
    for end, scorer in ROUGE.items():
        for kind, name in ROUGE_TYPES.items():
            values = [0.0 if a is None else scorer.score(g, a)[kind].fmeasure for g, a in items]
            scores[name + end] = sum(values) / len(values)
            if not end and kind != "rougeLsum":
                # There is no filter there, so no answer is an empty text.
                scores["paper_" + name] = sum(values) / len(values)
    return scores


def text_case(name, items):
    mean = lambda score: sum(0.0 if a is None else score(g, a) for g, a in items) / len(items)
    scores = {
        "exact_match": mean(lambda g, a: float(squad_words(g) == squad_words(a))),
        "token_f1": mean(squad_f1),
        "paper_emrqa_exact_match": sum(paper_scorer.emrqa_exact(g, a or "") for g, a in items) / len(items),
        "paper_emrqa_f1": sum(paper_scorer.emrqa_f1(g, a or "") for g, a in items) / len(items),
    } | rouge(items)
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
    lines = "effusions resolved resolving stable opacities lungs clear clearing are was pains painful no".split()
    several = lambda: "\n".join(
        " ".join(RANDOM.choice(lines) for _ in range(RANDOM.randint(0, 7))) for _ in range(RANDOM.randint(1, 5))
    )
    yield text_case("several lines, many ties", [[several(), several()] for _ in range(40)])
    awkward = [
        ["", ""], ["", "the"], ["the a an", "AN!"], ["...", "?!"], ["5.5 mg", "55mg"], ["5.5 mg", "5 5 MG"],
        ["na\u00efve caf\u00e9", "naive cafe"], ["na\u00efve caf\u00e9", "NA\u00cfVE CAF\u00c9"], ["\u03a3\u0399\u03a3 \u03b1", "\u03c3\u03b9\u03c2 \u0391"],
        ["\u201ca\u201d word", "\u201c\u201d word"], ["x\u2013the\u2013y", "x\u2013 \u2013y"], ["tab\tnew\nline", "tab new line"],
        ["non\u00a0breaking", "non breaking"], ["file\u001cseparator", "file separator"], ["under_score", "underscore"],
        ["under_score", "under score"], ["\u0130stanbul", "istanbul"], ["2 \u212a", "2 k"], ["x\u00b2", "x2"], ["\u4e2d\u6587 text", "text \u4e2d\u6587"],
        ["a-b", "ab"], ["the-end", "end"], ["an apple a day", "apple day"], ["theatre", "the atre"], ["pain pain", "pain"],
        ["\n\n", "\n"], ["one\r\ntwo", "one\ntwo"], ["a" * 300, "a" * 299], ["generalizations of oscillators", "general oscillation"],
        ["x y\nz", "z\nx y"], ["the \u017f\u0131gn", "the sign"], ["\u00df", "ss"], ["1.5\u00b5g", "1 5 \u03bcg"], ["aspirin", "aspirin"],
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


def partial_f1(gold, answers, loader="list"):
    """nervaluate's partial measure of each class; pooled, and averaged over the classes seen."""
    by_class = Evaluator(gold, answers, tags=CLASSES, loader=loader).evaluate()["entities"]
    results = [by_class[c]["partial"] for c in by_class]
    credit = sum(r.correct + 0.5 * r.partial for r in results)
    precision, recall = (credit / max(1, sum(getattr(r, side) for r in results)) for side in ("actual", "possible"))
    micro = 2 * precision * recall / (precision + recall) if credit else 0.0
    macro = sum(r.f1 for r in results) / len(results) if results else 0.0
    return {"entity_partial_f1": micro, "entity_partial_macro_f1": macro}


def shifted(tags):
    """Boundaries moved by a word here and there: entities shortened, lengthened, split."""
    out = list(tags)
    for i, tag in enumerate(tags):
        draw = RANDOM.random()
        if draw < 0.15:
            out[i] = "O"
        elif draw < 0.3 and i > 0 and out[i - 1] != "O":
            out[i] = "I" + out[i - 1][1:]
        elif draw < 0.4 and tag != "O":
            out[i] = "B" + tag[1:]
    # An inside tag that follows nothing of its class begins an entity.
    for i, tag in enumerate(out):
        if tag[0] == "I" and (i == 0 or out[i - 1][1:] != tag[1:]):
            out[i] = "B" + tag[1:]
    return out


def entity_cases():
    vocabulary = "chest pain aspirin ECG denies fever was given started on left lower lobe pneumonia , ; & 5 <".split()
    kinds = [
        ("entities", 0.3, 1.0, altered), ("few entities", 0.05, 1.0, altered), ("no answer to some", 0.3, 0.7, altered),
        ("moved boundaries", 0.4, 1.0, shifted), ("moved boundaries, no answer to some", 0.5, 0.8, shifted),
    ]
    for name, density, keep, change in kinds:
        items, gold_tags, answer_tags = [], [], []
        for _ in range(15):
            words = [RANDOM.choice(vocabulary) for _ in range(RANDOM.randint(1, 25))]
            gold = random_tags(len(words), density)
            answer = change(gold) if RANDOM.random() < keep else None
            items.append([marked_up(words, gold), None if answer is None else marked_up(words, answer)])
            gold_tags.append(gold)
            answer_tags.append(answer or ["O"] * len(words))
        f1 = lambda average: seqeval_f1(gold_tags, answer_tags, average=average, mode="strict", scheme=IOB2, zero_division=0)
        scores = {
            "entity_f1": f1("micro"), "entity_macro_f1": f1("macro"),
            # White space decides nothing, and these answers alter nothing else.
            "altered_text": 0.0, "paper_ner_f1": paper_scorer.ner_f1([[g, a or ""] for g, a in items]),
        } | partial_f1(gold_tags, answer_tags)
        yield {"name": name, "options": [], "items": items, "scores": scores}


def paper_choice_cases():
    def case(name, options, items, lower):
        scores = {f"paper_{k}": v for k, v in paper_scorer.first_label(options, items, lower).items()}
        scores |= {f"paper_one_label_{k}": v for k, v in paper_scorer.one_label(options, items).items()}
        return {"name": name, "options": options, "items": items, "scores": scores}

    def written(options, words, n):
        pick = lambda: RANDOM.choice([str.upper, str.lower, str])(RANDOM.choice(options + words))
        text = lambda: " ".join(pick() for _ in range(RANDOM.randint(0, 5)))
        return [[RANDOM.choice(options), text()] for _ in range(n)]

    three = ["yes", "no", "maybe"]
    ddi = ["DDI-effect", "DDI-mechanism", "DDI-advise", "DDI-false", "DDI-int"]
    specialties = ["Surgery", "Surgery Plastic", "Neurology", "\u00c9tude", "General Medicine", "STRASSE", "stra\u00dfe"]
    words = ["not", "known", "is", "the", "answer", "unclear", "\u2026", "Yesterday"]
    yield case("paper: yes, no, maybe", three, written(three, words, 60), True)
    yield case("paper: letters", list("ABCDE"), written(list("ABCDE"), words, 60), False)
    yield case("paper: interactions", ddi, written(ddi, words + ["DDI", "DDI-interaction"], 60), True)
    yield case("paper: labels within labels", specialties, written(specialties, words, 60), True)
    yield case("paper: a label never gold", three, [["yes", "maybe"], ["yes", "yes"], ["no", "not yet"]], True)
    yield case("paper: nothing written", three, [["yes", ""], ["no", " "]], True)
    yield case("paper: a label called missing", ["missing", "there"], [["missing", "x"], ["there", "x"], ["there", "there"]], True)

    hallmarks = ["resisting cell death", "cellular energetics", "inducing angiogenesis", "cell"]
    items = [["; ".join(h for h in hallmarks if RANDOM.random() < 0.4), text] for _, text in written(hallmarks, words, 40)]
    scores = {"paper_multi_label_f1": paper_scorer.multi_label(hallmarks, items)}
    yield {"name": "paper: hallmarks", "options": hallmarks, "items": items, "scores": scores}


def paper_entity_cases():
    """Answers that alter the text, or whose mark-up is broken: what the released scorer's walk makes of them."""
    gold = 'Denies <span class="problem">chest pain</span>, on <span class="treatment">aspirin 81mg</span>; <span class="test">ECG</span> ok.'
    plain = re.sub("<[^>]*>", "", gold)
    awkward = [
        "", plain, gold.replace('"', "'"), gold.upper(), f"Sure! {gold}", gold + " " + gold, gold.replace("span", "SPAN"),
        gold.replace("</span>", ""), gold.replace("<span", "<b").replace("</span", "</b"), gold.replace("problem", "problem x"),
        gold.replace("problem", "x problem"), gold.replace("problem", "disease"), gold.replace("chest ", ""),
        gold.replace("chest pain", "<i>chest</i> pain"), gold.replace("chest pain", '<span class="test">chest</span> pain'),
        gold.replace("chest pain", "chest-pain"), gold.replace("pain</span>,", "pain,</span>"), gold.replace("aspirin ", "aspirin  \n"),
        gold.replace("Denies", "Denies &lt; 5 &amp; &quot;x&quot;"), gold.replace("ok.", "ok. <br> </i>"), gold.replace(" class", " title='a > b' class"),
        gold.replace("Denies", "Denies <!-- no --> "), gold.replace("81mg", "81 mg"), gold.replace('"test"', "test"), f"<p>{gold}</p>",
        gold.replace("ok", "5 < 6 ok"), gold.replace('class="test"', "class"), gold.replace("pain", "pain</span> <span class=problem>pain"),
        "na\u00efve " + gold, gold.replace("chest", "chest_"), gold.replace("Denies", "&#68;enies"), gold.replace("Denies", "Den</b>ies"),
    ]
    for i, answer in enumerate(awkward):
        items = [[gold, answer], [gold.replace("ECG", "na\u00efve ECG"), answer]]
        yield {"name": f"paper: awkward mark-up {i}", "options": [], "items": items, "scores": {"paper_ner_f1": paper_scorer.ner_f1(items)}}
    vocabulary = "chest pain, aspirin ECG denies x-ray left lower-lobe (acute) 5mg & .".replace("&", "&amp;").split()
    items = []
    for _ in range(60):
        words = [RANDOM.choice(vocabulary) for _ in range(RANDOM.randint(1, 20))]
        tags = random_tags(len(words), 0.35)
        kept = [(w, t) for w, t in zip(words, shifted(tags)) if RANDOM.random() > 0.04]
        tail = [t if t[0] != "I" or (i and kept[i - 1][1][1:] == t[1:]) else "B" + t[1:] for i, (_, t) in enumerate(kept)]
        items.append([marked_up(words, tags), marked_up([w for w, _ in kept], tail)])
    yield {"name": "paper: words lost", "options": [], "items": items, "scores": {"paper_ner_f1": paper_scorer.ner_f1(items)}}


def likelihood_case(name, options, golds, log_probs, tokens):
    """What is picked is the likeliest option, the first of equals."""
    lp = np.array(log_probs)
    picks = lp.argmax(axis=1)
    p = np.exp(lp - lp.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    gold = np.array([options.index(g) for g in golds])
    rows = np.arange(len(gold))
    confidence, right = p[rows, picks], (picks == gold).astype(float)

    def ece(bins):
        edges = np.array([k / bins for k in range(1, bins)])
        index = (confidence[:, None] > edges[None, :]).sum(axis=1)
        masks = [index == b for b in range(bins)]
        return float(sum(m.sum() / len(gold) * abs(right[m].mean() - confidence[m].mean()) for m in masks if m.any()))

    one_hot = np.zeros_like(p)
    one_hot[rows, gold] = 1.0
    loss = -lp[rows, gold].sum()
    units = {
        "token": sum(row[g] for row, g in zip(tokens, gold)),
        "word": sum(len(g.split()) for g in golds),
        "byte": sum(len(g.encode()) for g in golds),
    }
    scores = {"ece_10": ece(10), "ece_15": ece(15), "brier": float(((p - one_hot) ** 2).sum(axis=1).mean())}
    scores |= {f"{unit}_perplexity": math.exp(loss / n) for unit, n in units.items()}
    items = [[g, options[pick]] for g, pick in zip(golds, picks)]
    return {"name": name, "options": options, "items": items, "log_probs": log_probs, "tokens": tokens, "scores": scores}


def likelihood_cases():
    options = ["yes", "no", "maybe not", "caf\u00e9 au lait"]
    draw = lambda spread: [round(-spread * RANDOM.random(), 3) for _ in options]
    tokens = lambda n: [[RANDOM.randint(1, 4) for _ in options] for _ in range(n)]
    golds = lambda n: [RANDOM.choice(options) for _ in range(n)]
    for name, spread, n in [("unsure", 1.0, 40), ("sure", 12.0, 40), ("one item", 3.0, 1)]:
        yield likelihood_case(f"likelihoods: {name}", options, golds(n), [draw(spread) for _ in range(n)], tokens(n))
    yield likelihood_case("likelihoods: ties", options[:2], ["yes", "no", "no"], [[-1.0, -1.0]] * 3, [[1, 2]] * 3)
    yield likelihood_case("likelihoods: far below", options[:2], ["yes", "no"], [[-900.0, -901.0], [-2000.0, -1.0]], [[300, 300]] * 2)


def number_cases():
    """Writings of one value each, by hand."""
    items = [
        ["#### 18", "18"], ["She has 9 + 9 = 18\n#### 18", "so 18."], ["#### 1,004", "$1004.00"], ["#### 5", "5.5"], ["#### -3", "-3"],
        ["#### 3", "5-3"], ["#### 70000", "70,000 dollars"], ["#### 0.5", ".5"], ["#### 12", "twelve"], ["#### 7", None],
    ]
    right = [1, 1, 1, 0, 1, 1, 1, 1, 0, 0]
    yield {"name": "numbers", "options": [], "items": items, "scores": {"number_match": sum(right) / len(right)}}


def nested_case():
    """Elements within elements and beside each other: entities as sets for the strict measure, nervaluate for the partial."""
    words = [f"w{i}" for i in range(12)]

    def nest(start, end, depth):
        """Text of the words from start to end, and the entities marked in it."""
        text, entities, i = [], [], start
        while i < end:
            if depth < 3 and RANDOM.random() < 0.35:
                stop, entity = RANDOM.randint(i + 1, end), RANDOM.choice(CLASSES)
                inside, found = nest(i, stop, depth + 1)
                text.append(f'<span class="{entity}">{inside}</span>')
                entities += [(i, stop, entity), *found]
                i = stop
            else:
                text.append(words[i])
                i += 1
        return " ".join(text), entities

    pairs = [(nest(0, 12, 0), nest(0, 12, 0)) for _ in range(25)]
    items = [[gold[0], answer[0]] for gold, answer in pairs]
    sets = [[sorted(set(entities)) for _, entities in pair] for pair in pairs]

    def strict(classes):
        count = lambda side: sum(e[2] in classes for pair in sets for e in pair[side])
        right = sum(e[2] in classes for gold, answer in sets for e in set(gold) & set(answer))
        return 2 * right / (count(0) + count(1))

    spans = [
        [[{"label": c, "start": s, "end": e - 1} for s, e, c in pair[side]] for pair in sets] for side in (0, 1)
    ]
    scores = {"entity_f1": strict(CLASSES), "entity_macro_f1": sum(strict([c]) for c in CLASSES) / 3, "altered_text": 0.0}
    return {"name": "nested entities", "options": [], "items": items, "scores": scores | partial_f1(*spans, loader="dict")}


def altered_case():
    source = 'On <span class="treatment">aspirin</span> 81 mg.'
    answers = ["On aspirin 81 mg.", "On aspirin\n81 mg .", "On aspirin 81mg.", "Sure: " + source, "on aspirin 81 mg.", source + "</span>", None]
    items = [[source, answer] for answer in answers]
    # Of six answers "81mg" is another word, "Sure:" is added, and "on" has another case.
    yield {"name": "altered text", "options": [], "items": items, "scores": {"altered_text": 3 / 6}}


def bert_score(gold, answer, weight):
    """bert_score's greedy_cos_idf for one pair, so without padding: (ids, vectors), special tokens at both ends."""
    unit = lambda v: v / np.linalg.norm(v, axis=1, keepdims=True)
    similarity = unit(answer[1]) @ unit(gold[1]).T

    def mean(best, ids):
        weights = np.array([0.0] + [weight(i) for i in ids[1:-1]] + [0.0])
        return float((best * weights).sum() / weights.sum()) if weights.sum() else math.nan

    precision, recall = mean(similarity.max(axis=1), answer[0]), mean(similarity.max(axis=0), gold[0])
    if len(gold[0]) == 2 or len(answer[0]) == 2:
        precision = recall = 0.0
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return [0.0 if math.isnan(x) else x for x in (precision, recall, f1)]


def bert_score_file():
    random = np.random.default_rng(20261123)
    width, words = 11, ["no", "acute", "effusion", "heart", "is", "normal", "pain"]

    def embedded(text):
        ids = [101] + [words.index(word) for word in text.split()] + [102]
        return ids, np.round(random.normal(size=(len(ids), width)), 3)

    def draw(n):
        return " ".join(words[i] for i in random.integers(0, len(words), size=n))

    pairs = [[draw(random.integers(0, 8)), draw(random.integers(0, 8))] for _ in range(12)] + [["", "no"], ["no", ""], ["pain", "pain"]]
    texts = {text: embedded(text) for pair in pairs for text in pair}
    count = collections.Counter(i for gold, _ in pairs for i in set(texts[gold][0]))
    idf = lambda i: math.log((len(pairs) + 1) / (count[i] + 1))
    baseline = [0.31, 0.27, 0.29]
    rescale = lambda values: [(x - b) / (1 - b) for x, b in zip(values, baseline)]
    plain = [bert_score(texts[g], texts[a], lambda _: 1.0) for g, a in pairs]
    by_idf = [bert_score(texts[g], texts[a], idf) for g, a in pairs]
    return {
        "texts": {text: {"ids": ids, "vectors": vectors.ravel().tolist()} for text, (ids, vectors) in texts.items()},
        "pairs": pairs, "baseline": baseline, "plain": plain, "idf": by_idf, "idf_rescaled": [rescale(v) for v in by_idf],
    }


ENDINGS = """s es ies ied ss sses ed eed ing y ly ational tional enci anci izer bli abli alli entli eli ousli ization ation ator alism
iveness fulness ousness aliti iviti biliti fulli logi icate ative alize iciti ical ful ness al ance ence er ic able ible ant ement ment
ent sion tion ion ou ism ate iti ous ive ize e ll le tted lling ssed zzing ying yed eing ability ically edly ingly fully""".split()
STEMS = """gener oscill heart inflamm cardi s t ab y by try sky troubl fizz fall hop hopp cav toy syzyg archae geo theo ra e ee oo crep
pneumon hyper 5 b12 x9y mg yy ayy ya control roll fil fail conflat siz agre relat condit valen hesit digit radic vile analog viet predic
oper feud decis call formal sensitiv electr triplic good reviv allow infer airlin gyroscop adjust defens irrit replac depend adopt homolog
commun activ angular effect bowdler probat ceas diagnos metasta edema angi""".split()


def stem_lines():
    stemmer = PorterStemmer()
    words = {stem + ending for stem in STEMS for ending in ENDINGS} | set(STEMS) | set(stemmer.pool)
    return [f"{word} {stemmer.stem(word)}" for word in sorted(words)]


def main():
    cases = [
        *choice_cases(), *multi_label_cases(), *text_cases(), *entity_cases(), nested_case(), *altered_case(), *number_cases(),
        *likelihood_cases(), *paper_choice_cases(), *paper_entity_cases(),
    ]
    OUT.mkdir(parents=True, exist_ok=True)
    # One case a line: a change in one shows as one line.
    lines = ",\n".join(json.dumps(case) for case in cases)
    (OUT / "metrics.json").write_text(f"[\n{lines}\n]\n")
    (OUT / "bert_score.json").write_text(json.dumps(bert_score_file()) + "\n")
    (OUT / "stems.txt").write_text("\n".join(stem_lines()) + "\n")
    print(f"{OUT}: {len(cases)} cases")


if __name__ == "__main__":
    main()
