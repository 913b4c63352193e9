"""Which rows are duplicates or hold evaluation items, and every row by its number."""

import re

from .sources import BY_NAME, SOURCES
from .words import ASKED, VIGNETTES, Random, sentence, word

CHUNK = 2000  # rows that are made at a time
ROWS_PER_SAMPLE = 1.5
NEAR, EXACT, HELD = 100, 20, 2  # of 1,000 rows
EVALUATION_ITEMS = 2000
SHINGLE = 5
WORD = re.compile(r"[^\W_]+|[<>=+]")


def shingles(parts):
    words = WORD.findall("\n".join(parts).lower())
    return {tuple(words[at : at + SHINGLE]) for at in range(max(1, len(words) - SHINGLE + 1))}


def jaccard(a, b):
    return len(a & b) / len(a | b)


def edited(parts, r):
    """The parts with one to three words changed, put in or left out, so that the similarity stays above 0.8."""
    before = shingles(parts)
    longest = max(range(len(parts)), key=lambda at: len(parts[at]))
    for edits in range(r.between(1, 3), -1, -1):
        words = parts[longest].split(" ")
        places = [at for at, text in enumerate(words) if text.isalpha()]
        if edits == 0:  # too short for an edit in the middle: at its first word one shingle changes
            words[0] = word(r).capitalize()
        for _ in range(edits):
            at, what = r.choice(places), r.below(4)
            words[at] = word(r) if what < 2 else f"{words[at]} {word(r, 'a')}" if what == 2 else ""
        changed = list(parts)
        changed[longest] = re.sub(" +", " ", " ".join(words)).strip()
        if 0.8 < jaccard(before, shingles(changed)) < 1:
            return changed
    return None


def evaluation_item(seed, number):
    r = Random(seed, 99, number)
    return " ".join([sentence(r, VIGNETTES) for _ in range(r.between(1, 3))] + [sentence(r, ASKED)])


class Rows:
    """The rows of a source by their numbers."""

    def __init__(self, seed, scale, at):
        self.seed, self.scale, self.at, self.source = seed, scale, at, SOURCES[at]
        self.count = rows_of(self.source, scale)

    def planted(self, number):
        """What was drawn for a row; the first of each kind of row are always clean."""
        draw = Random(self.seed, self.at, number, 1).below(1000)
        if number < self.source.alternates or draw >= NEAR + EXACT + HELD:
            return "clean"
        if draw >= NEAR + EXACT:
            return "item" if self.source.holds_items else "clean"
        return "near" if draw < NEAR else "exact"

    def clean_parts(self, number):
        return self.source.parts(Random(self.seed, self.at, number, 2), number)

    def original(self, number, r):
        """The parts of a clean row that comes earlier in the build."""
        if self.source.repeats and r.below(10) == 0:
            rows = Rows(self.seed, self.scale, BY_NAME[self.source.repeats])
            earlier, step = r.below(rows.count), 1
        else:
            rows, step = self, self.source.alternates
            earlier = number - step * r.between(1, number // step)
        while rows.planted(earlier) != "clean":
            earlier -= step
        return rows.clean_parts(earlier)

    def row(self, number):
        """What is planted in it, and its parts."""
        kind, r = self.planted(number), Random(self.seed, self.at, number, 3)
        if kind == "clean":
            return kind, self.clean_parts(number)
        if kind == "item":
            parts = self.clean_parts(number)
            parts[0] = f"{parts[0]} {evaluation_item(self.seed, r.below(EVALUATION_ITEMS))}"
            return kind, parts
        original = self.original(number, r)
        parts = edited(original, r) if kind == "near" else original
        return (kind, parts) if parts else ("exact", original)

    def chunk(self, start):
        """Rows from `start` on, as each file has them, with what is planted in each and the lines it takes."""
        stop = min(start + CHUNK, self.count)
        texts, kinds, lines = [[] for _ in self.source.files], [], []
        for number in range(start, stop):
            kind, parts = self.row(number)
            written = self.source.write(number, parts, Random(self.seed, self.at, number, 4))
            for text, piece in zip(texts, written):
                text.append(piece)
            kinds.append(kind)
            lines.append(written[0].count("\n"))
        joined = [file.between.join(text).encode() for file, text in zip(self.source.files, texts)]
        return joined, kinds, lines


def rows_of(source, scale):
    rows = max(20, round(source.quota() * ROWS_PER_SAMPLE * scale))
    return rows + rows % source.alternates


def scaled(quota, scale):
    return max(10, round(quota * scale))
