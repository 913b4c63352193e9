"""The items, read from the published files without medtune: its readers and templates are part of what is compared.

Each row has the id that medtune gives the record, the fields that lm-eval's templates read, the options and the number of
the right one.
"""
import ast
import csv
import json

MEDICAL = ["anatomy", "clinical_knowledge", "college_biology", "college_medicine", "medical_genetics", "professional_medicine"]
# the group "other", as lm-eval has it (Hendrycks et al. 2021 count anatomy in)
OTHER = ["business_ethics", "clinical_knowledge", "college_medicine", "global_facts", "human_aging", "management",
         "marketing", "medical_genetics", "miscellaneous", "nutrition", "professional_accounting", "professional_medicine",
         "virology"]


def pubmedqa(root):
    folder = root / "pubmedqa"
    labelled = json.loads((folder / "ori_pqal.json").read_text())
    labels = ["yes", "no", "maybe"]
    for pmid, decision in json.loads((folder / "test_ground_truth.json").read_text()).items():
        row = labelled[pmid]
        yield dict(id=f"pubmedqa-test/{pmid}", question=row["QUESTION"], contexts=row["CONTEXTS"], choices=labels,
                   gold=labels.index(decision))


def by_line(file, **dialect):
    """Rows with the line that each begins on, which is how medtune names a row."""
    reader = csv.reader(file, **dialect)
    before = 0
    for row in reader:
        yield before + 1, row
        before = reader.line_num


def medqa(root):
    csv.field_size_limit(1 << 24)
    with open(root / "medqa" / "dev.tsv", newline="", encoding="utf-8") as file:
        rows = by_line(file, delimiter="\t")
        _, header = next(rows)
        for line, cells in rows:
            row = dict(zip(header, cells))
            options = ast.literal_eval(row["options"])
            letters = [option["key"] for option in options]
            yield dict(id=f"medqa-dev/{line}", question=row["question"], options=options, choices=letters,
                       gold=letters.index(row["answer_idx"]))


def mmlu(subjects, cloze=False):
    """`cloze`: the options are the answers' texts instead of their letters."""
    def rows(root):
        for subject in sorted(subjects):
            name = f"{subject}_val.csv"
            with open(root / "mmlu" / "data" / "val" / name, newline="", encoding="utf-8") as file:
                for line, (question, *texts, letter) in by_line(file):
                    letters = ["A", "B", "C", "D"]
                    yield dict(id=f"mmlu-val/{name}/{line}", subject=subject, question=question, options=texts,
                               choices=texts if cloze else letters, gold=letters.index(letter))
    return rows
