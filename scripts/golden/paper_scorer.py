"""What the released Me-LLaMA scorer computes, re-stated from reading it (BIDS-Xu-Lab/Me-LLaMA @ 08c893f,
src/tasks/vital_measure.py): no code taken. It needs a CUDA device, spaCy's large model and a BART checkpoint to import,
so it can't be run here as it is. scikit-learn, seqeval and BeautifulSoup do here what they do there. spaCy's tokenizer is
replaced by splitting punctuation from words.
"""
import re
import string

from bs4 import BeautifulSoup, NavigableString, Tag
from seqeval.metrics import f1_score as seqeval_f1
from sklearn.metrics import f1_score

CLASSES = ["problem", "treatment", "test", "drug"]
PUNCTUATION = set(string.punctuation)


def classification(items, pick):
    """items: [gold, text]; pick(text) gives a label or "missing". Accuracy, macro and weighted F1, share missing."""
    pairs = [pick(gold, text) for gold, text in items]
    gold, answers = [g for g, _ in pairs], [a for _, a in pairs]
    f1 = lambda average: f1_score(gold, answers, labels=sorted(set(gold)), average=average, zero_division=0)
    n = len(pairs)
    return {
        "accuracy": sum(g == a for g, a in pairs) / n,
        "macro_f1": f1("macro"),
        "weighted_f1": f1("weighted"),
        "missing": sum(a == "missing" for a in answers) / n,
    }


def first_label(options, items, lower):
    fold = str.lower if lower else str

    def pick(gold, text):
        text = fold(text.strip())
        return fold(gold), next((fold(o) for o in options if fold(o) in text), "missing")

    return classification(items, pick)


def one_label(options, items):
    def pick(gold, text):
        found = [o for o in options if o in text.strip()]
        return gold, found[0] if len(found) == 1 else "missing"

    return classification(items, pick)


def multi_label(options, items):
    gold = [[int(o in [x.strip() for x in g.split(";")]) for o in options] for g, _ in items]
    answers = [[int(o in text) for o in options] for _, text in items]
    return f1_score(gold, answers, average="macro", zero_division=0)


def characters(text):
    spaced = " ".join(c for c in text.lower() if c not in PUNCTUATION)
    return spaced.split()


def emrqa_exact(gold, text):
    return float(" ".join(characters(gold)) == " ".join(characters(text)))


def emrqa_f1(gold, text):
    gold, text = characters(gold), characters(text)
    if not gold or not text:
        return float(gold == text)
    common = len(set(gold) & set(text))
    if common == 0:
        return 0.0
    precision, recall = common / len(text), common / len(gold)
    return 2 * precision * recall / (precision + recall)


def words_and_signs(text):
    return re.findall(r"[^\W_]+|[^\w\s]|_", text)


def bio(html, tokenize):
    tagged = []
    for child in BeautifulSoup(html, "html.parser").children:
        if isinstance(child, NavigableString):
            tagged += [(word, "O") for word in child.split()]
        elif isinstance(child, Tag):
            entity = next(iter(child.attrs.get("class", [])), None)
            for i, word in enumerate(tokenize(child.get_text())):
                tagged.append((word, f"{'I' if i else 'B'}-{entity}" if entity in CLASSES else "O"))
    return tagged


def walk(answer, gold):
    """Pairs tokens from the left; a token that begins with the other is split, a mismatch drops both."""
    after = lambda tag: "I" + tag[1:] if tag[0] == "B" else tag
    answer, gold, pairs = answer[::-1], gold[::-1], []
    while answer and gold:
        (a, a_tag), (g, g_tag) = answer.pop(), gold.pop()
        if a == g or g.startswith(a) or a.startswith(g):
            pairs.append((a_tag, g_tag))
            if len(g) > len(a):
                gold.append((g[len(a):], after(g_tag)))
            elif len(a) > len(g):
                answer.append((a[len(g):], after(a_tag)))
    return [a for a, _ in pairs], [g for _, g in pairs]


def ner_f1(items, tokenize=words_and_signs):
    tags = [walk(bio(text, tokenize), bio(gold, tokenize)) for gold, text in items]
    return float(seqeval_f1([g for _, g in tags], [a for a, _ in tags], zero_division=0))
