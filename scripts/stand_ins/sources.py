"""The sources of the instruction set: what their samples are made of, and how their publishers write them."""

import csv
import io
import json
from collections import namedtuple
from xml.sax.saxutils import escape

from .words import TITLES, paragraphs, prose, question, sentence, word

# A file of a source: what it begins with, what stands between rows, what it ends with.
File = namedtuple("File", "path head between foot", defaults=["", "", ""])


class Entry:
    """A source of the recipe."""

    def __init__(self, name, quota, kind, stands_for, access="open", prompt=None, answer=None, **keys):
        self.name, self.quota, self.kind, self.stands_for, self.access = name, quota, kind, stands_for, access
        self.prompt, self.answer, self.keys = prompt, answer, keys


class Source:
    """Rows in files: `parts` makes what a row's samples are made of, in the order of the record's fields, `write` the
    row in each file. `key` is how the builder names a row: its line, its number, or what the function says."""

    def __init__(self, entries, format, files, parts, write, key="line", repeats=None, alternates=1, holds_items=False):
        self.entries, self.format, self.files, self.parts, self.write = entries, format, files, parts, write
        self.key, self.repeats, self.alternates, self.holds_items = key, repeats, alternates, holds_items

    def quota(self):
        return sum(entry.quota for entry in self.entries) if self.alternates == 1 else MIMIC_TASK * 2


def array(path):
    return File(path, "[\n", ",\n", "\n]\n")


def as_json(**fields):
    return json.dumps(fields, ensure_ascii=False)


def line(**fields):
    return as_json(**fields) + "\n"


def cells(*values):
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(values)
    return out.getvalue()


def tagged(name, text, **attributes):
    return "<%s%s>%s</%s>" % (name, "".join(f' {key}="{value}"' for key, value in attributes.items()), escape(text), name)


MEDICAL_TASK = "Given a medical query, provide a concise and clear answer based on the patient's description."
PROFESSIONAL = "If you are a medical professional, answer this question truthfully."
INPUT = "%s\nINPUT: {{ %s }}\nOUTPUT:"
CONTEXT = "%s\nINPUT: {{ %s }}\nCONTEXT: {{ %s }}\nOUTPUT:"
GENERAL_TASK = "Below is an input that describes a task, maybe paired with a context that provides further information. Write a response that appropriately completes the request."
INSTRUCT_TASK = "Below is an input that describes a medical task, maybe paired with a context that provides further input information. Write a response that appropriately completes the request."


def instruction_parts(r, low, high):
    return [question(r), prose(r, 1, 2) if r.below(2) else "", prose(r, low, high)]


def sharegpt(number, parts, r):
    turns = [{"from": "gpt" if at % 2 else "human", "value": part} for at, part in enumerate(parts)]
    return [as_json(id=f"conv{r.next():016x}_0", conversations=turns)]


def conversation_parts(r):
    turns = []
    for _ in range(r.between(1, 3)):
        turns += [question(r), prose(r, 1, 4)]
    return turns


def icliniq(number, parts, r):
    return [line(input=parts[0], answer_icliniq=prose(r, 2, 5), answer_chatgpt=prose(r, 3, 6), answer_chatdoctor=parts[1])]


def mediqa(number, parts, r):
    answer = tagged("AnswerURL", f"https://example.org/{r.below(10**6)}") + tagged("AnswerText", parts[1])
    scores = f'AID="{number + 1}_Answer1" SystemRank="1" ReferenceRank="{r.between(1, 9)}" ReferenceScore="{r.between(1, 4)}"'
    return [f'<Question QID="{number + 1}">{tagged("QuestionText", parts[0])}<AnswerList><Answer {scores}>{answer}</Answer></AnswerList></Question>\n']


def liveqa(number, parts, r):
    part = tagged("FOCUS", word(r), fid="F1") + tagged("TYPE", r.choice(["TREATMENT", "CAUSE", "INFORMATION"]), tid="T1")
    answer = f"<ANSWERS>{tagged('ANSWER', parts[1], answerid='A1', pairid=str(number + 1))}</ANSWERS>"
    sub = f'<SUB-QUESTIONS><SUB-QUESTION subqid="S1"><ANNOTATIONS>{part}</ANNOTATIONS>{answer}</SUB-QUESTION></SUB-QUESTIONS>'
    return [f'<NLM-QUESTION questionid="Q{number + 1}" fRef="made-up">{tagged("SUBJECT", word(r))}{tagged("MESSAGE", parts[0])}{sub}</NLM-QUESTION>\n']


MEDLINE = File("", '<?xml version="1.0" encoding="UTF-8"?>\n<PubmedArticleSet>\n', "", "</PubmedArticleSet>\n")
PMIDS = {"pmc-title": 30_000_000, "pmc-next-sentence": 31_000_000, "pmc-keywords": 32_000_000}


def medline(name, title_of, mesh_of):
    """A citation: its first parts are the title (if the task reads it), the abstract, then the MeSH terms."""
    def write(number, parts, r):
        title = title_of(parts) or sentence(r, TITLES)
        abstract = parts[1] if title_of(parts) else parts[0]
        half = abstract.find(". ", len(abstract) // 2) + 1 or len(abstract)
        # Labels become words of the text, so the one section that has one does not depend on r.
        text = tagged("AbstractText", abstract[:half].strip()) + (tagged("AbstractText", abstract[half:].strip()) if abstract[half:].strip() else "")
        mesh = mesh_of(parts) or [word(r) for _ in range(r.between(3, 8))]
        headings = "".join(f"<MeshHeading>{tagged('DescriptorName', term, UI='D%06d' % r.below(10**6), MajorTopicYN='N')}</MeshHeading>\n" for term in mesh)
        date = f"<PubDate><Year>{r.between(1990, 2019)}</Year></PubDate>"
        return [
            f'<PubmedArticle>\n<MedlineCitation Status="MEDLINE" Owner="NLM">\n{tagged("PMID", str(PMIDS[name] + number), Version="1")}\n'
            f'<Article PubModel="Print">\n<Journal><JournalIssue CitedMedium="Print">{date}</JournalIssue>{tagged("Title", "Journal of " + word(r))}</Journal>\n'
            f'{tagged("ArticleTitle", title)}\n<Abstract>{text}</Abstract>\n<Language>eng</Language>\n</Article>\n'
            f"<MeshHeadingList>\n{headings}</MeshHeadingList>\n</MedlineCitation>\n</PubmedArticle>\n"
        ]

    return write


def mesh_terms(r):
    return [f"{word(r, 'a').capitalize()} {word(r)}" for _ in range(r.between(4, 9))]


RELATIONS = [("RO", "may_be_treated_by"), ("RO", "cause_of"), ("CHD", "isa"), ("RO", "has_finding_site"), ("RO", "associated_with"), ("SY", "")]


def relation_parts(r):
    def name():
        return f"{word(r, 'a').capitalize()} {word(r)} of {word(r)}"

    rel, rela = r.choice(RELATIONS)
    return [name(), f"{rel} {rela}", name(), prose(r, 2, 3), prose(r, 1, 2)]


def umls(number, parts, r):
    subject, relation, object_, definition1, definition2 = parts
    rel, rela = relation.split(" ")
    first, second = f"C{2 * number + 1:07}", f"C{2 * number + 2:07}"
    concepts, definitions = "", ""
    for cui, name, definition in ((first, object_, definition1), (second, subject, definition2)):
        concepts += f"{cui}|ENG|P|L{cui[1:]}|PF|S{cui[1:]}|Y|A{cui[1:]}||||MADEUP|PT|{cui[1:]}|{name}|0|N||\n"
        concepts += f"{cui}|ENG|S|L{cui[1:]}|VO|S{cui[1:]}|Y|A1{cui[2:]}||||MADEUP|SY|{cui[1:]}|{word(r)} {word(r)}|0|N||\n"
        definitions += f"{cui}|A{cui[1:]}|AT{cui[1:]}||MADEUP|{definition}|N||\n"
    return [f"{first}|A{first[1:]}|AUI|{rel}|{second}|A{second[1:]}|AUI|{rela}|R{number + 1}||MADEUP|MADEUP||N|N||\n", concepts, definitions]


MIMIC_TASK = 7500  # the largest of the tasks: each kind of note is there 1.5 times as often
NOTE_HEAD = '"ROW_ID","SUBJECT_ID","HADM_ID","CHARTDATE","CHARTTIME","STORETIME","CATEGORY","DESCRIPTION","CGID","ISERROR","TEXT"\n'
SECTIONS = ["Chief Complaint", "History of Present Illness", "Past Medical History", "Medications on Admission", "Brief Hospital Course", "Discharge Diagnosis"]


def quoted(text):
    return '"' + text.replace('"', '""') + '"'


def hidden_date(r):
    return f"[**{r.between(2100, 2200)}-{r.between(1, 12)}-{r.between(1, 28)}**]"


def note_parts(r, number):
    """The sections of a note, without what stands before the first heading: a radiology report at odd numbers."""
    if number % 2:
        return [prose(r, 2, 4), prose(r, 1, 2)]
    day = hidden_date(r)
    medicines = "\n".join(f"{at + 1}. {word(r, 'x').capitalize()} {word(r, 'd')} mg PO daily" for at in range(r.between(2, 4)))
    return [day, f"{word(r, 'a')} {word(r)}", f"Mr. [**Known lastname {r.below(9999)}**] came with {word(r)}. " + prose(r, 2, 3), prose(r, 1, 1), medicines, prose(r, 2, 3), word(r)]


def mimic(number, parts, r):
    row, subject, stay = number + 1, number // 3 + 1, 100_000 + number
    born = f"{r.between(2030, 2085)}-{r.between(1, 12):02}-{r.between(1, 28):02} 00:00:00"
    day = f"{r.between(2120, 2140)}-{r.between(1, 12):02}-{r.between(1, 28):02}"
    if number % 2:
        kind, description = "Radiology", "CHEST (PORTABLE AP)"
        text = f"{hidden_date(r)} 10:12 AM\n {description}\n\n FINDINGS: {parts[0]}\n\n IMPRESSION: {parts[1]}\n"
    else:
        kind, description = "Discharge summary", "Report"
        text = f"Admission Date:  {parts[0]}\n\n" + "\n\n".join(f"{name}:\n{part}" for name, part in zip(SECTIONS, parts[1:])) + "\n"
    note = f'{row},{subject},{stay},"{day}",,,"{kind}","{description}",,,{quoted(text)}\n'
    admission = f'{row},{subject},{stay},"{day} 10:00:00","{day} 22:00:00",,"{r.choice(["EMERGENCY", "ELECTIVE", "URGENT"])}","A","HOME","B",,,,,,,"{word(r).upper()}",{r.below(9) // 8},1\n'
    patient = f'{row},{subject},"{r.choice("FM")}","{born}",,,,0\n' if number % 3 == 0 else ""
    codes = "".join(f'{row * 10 + at},{subject},{stay},{at},"{r.between(1, 999):03}{r.below(100)}"\n' for at in range(1, r.between(2, 6)))
    drugs = "".join(f'{row * 10 + at},{subject},{stay},,,,"MAIN","{word(r, "x").capitalize()}",,,,,,,,,,,"PO"\n' for at in range(r.between(2, 6)))
    return [note, admission, patient, codes, drugs]


def mimic_entry(name, quota, kind, category, prompt, answer, require):
    return Entry(name, quota, kind, "MIMIC-III", "credentialed", prompt, answer, where=f'category == "{category}"', require=require, phi="redact", split_group="mimic-iii {{ subject_id }}")


def sources():
    qa = lambda low, high, questions=(1, 2): lambda r, number: [question(r, *questions), prose(r, low, high)]
    instruct = lambda low, high: lambda r, number: instruction_parts(r, low, high)
    return [
        Source(
            [Entry("alpaca", 8000, "instructions", "Alpaca", "non-commercial", CONTEXT % (GENERAL_TASK, "instruction", "input"), "{{ output }}", group="general")],
            "alpaca", [array("alpaca.json")], instruct(2, 5),
            lambda n, p, r: [as_json(instruction=p[0], input=p[1], output=p[2])], "number", holds_items=True,
        ),
        Source(
            [Entry("dolly", 3000, "instructions", "Dolly", "open", CONTEXT % (GENERAL_TASK, "instruction", "context"), "{{ response }}", group="general")],
            "records", [File("dolly.jsonl")], instruct(2, 5),
            lambda n, p, r: [line(instruction=p[0], context=p[1], response=p[2], category=r.choice(["open_qa", "closed_qa", "summarization"]))], holds_items=True,
        ),
        Source(
            [Entry("sharegpt", 9000, "conversation", "ShareGPT", group="general")],
            "sharegpt", [array("sharegpt.json")], lambda r, number: conversation_parts(r), sharegpt, "number", holds_items=True,
        ),
        Source(
            [Entry("healthcaremagic", 15000, "conversation", "HealthCareMagic", "non-commercial", INPUT % (MEDICAL_TASK, "input"), "{{ output }}", group="chatdoctor")],
            "alpaca", [array("healthcaremagic.json")], qa(3, 6, (1, 3)),
            lambda n, p, r: [as_json(instruction="If you are a doctor, please answer the medical questions based on the patient's description.", input=p[0], output=p[1])], "number", holds_items=True,
        ),
        Source(
            [Entry("icliniq", 5000, "conversation", "iCliniq", "non-commercial", INPUT % (MEDICAL_TASK, "input"), "{{ answer_chatdoctor }}", group="chatdoctor")],
            "records", [File("icliniq.jsonl")], qa(3, 6, (2, 4)), icliniq, repeats="healthcaremagic", holds_items=True,
        ),
        Source(
            [Entry("medinstruct", 52000, "instructions", "MedInstruct (AlpaCare)", "non-commercial", CONTEXT % (INSTRUCT_TASK, "instruction", "input"), "{{ output }}")],
            "alpaca", [array("medinstruct-52k.json")], instruct(2, 6),
            lambda n, p, r: [as_json(instruction=p[0], input=p[1] or "<noinput>", output=p[2])], "number", holds_items=True,
        ),
        Source(
            [Entry("flashcards", 34000, "question answering", "Medical flash cards (MedAlpaca)", "non-commercial", INPUT % (PROFESSIONAL, "input"), "{{ output }}")],
            "alpaca", [array("medical_meadow_medical_flashcards.json")], qa(2, 6),
            lambda n, p, r: [as_json(input=p[0], output=p[1], instruction="Answer this question truthfully")], "number", "healthcaremagic", holds_items=True,
        ),
        Source(
            [Entry("mediqa", 2220, "question answering", "MEDIQA 2019", "open", INPUT % ("Answer the input medical question based on the given context.", "question"), "{{ answer }}")],
            "mediqa-qa", [File("mediqa/MEDIQA2019-Task3-QA.xml", '<?xml version="1.0" encoding="UTF-8"?>\n<MEDIQA2019-Task3-QA>\n', "", "</MEDIQA2019-Task3-QA>\n")], qa(4, 9), mediqa,
            lambda n: f"{n + 1}_Answer1", holds_items=True,
        ),
        Source(
            [Entry("medicationqa", 690, "question answering", "MedicationQA", "open", INPUT % ("Answer this medical question truthfully.", "Question"), "{{ Answer }}")],
            "csv", [File("medicationqa.csv", "Question,Focus (Drug),Question Type,Answer,URL\n")], lambda r, n: [question(r, 1, 2), paragraphs(r, 3, 7)],
            lambda n, p, r: [cells(p[0], word(r, "x"), "Usage", p[1], f"https://example.org/{n}")], holds_items=True,
        ),
        Source(
            [Entry("liveqa", 634, "question answering", "LiveQA (TREC 2017)", "open", INPUT % ("Given a medical query, provide a concise and clear answer based on the given details.", "message"), "{{ answer }}")],
            "liveqa", [File("TREC-2017-LiveQA-Medical-Train-1.xml", '<?xml version="1.0" encoding="UTF-8"?>\n<NLM-QUESTIONS>\n', "", "</NLM-QUESTIONS>\n")], qa(4, 8, (2, 3)), liveqa,
            lambda n: f"Q{n + 1}-1", "flashcards", holds_items=True,
        ),
        Source(
            [Entry("wikidoc", 5490, "question answering", "WikiDoc patient information (MedAlpaca)", "open", INPUT % (PROFESSIONAL, "input"), "{{ output }}")],
            "csv", [File("wikidoc_patient_information.csv", "instruction,input,output\n")], lambda r, n: [question(r), paragraphs(r, 4, 8)],
            lambda n, p, r: [cells("Answer this question truthfully", *p)], holds_items=True, repeats="flashcards",
        ),
        Source(
            [Entry("guidelineqa", 2000, "question answering", "clinical guidelines", "open", INPUT % (PROFESSIONAL, "question"), "{{ answer }}")],
            "records", [File("guidelineqa.jsonl")], qa(4, 7), lambda n, p, r: [line(question=p[0], answer=p[1], source=r.choice(["cdc", "nice", "who"]))], holds_items=True, repeats="flashcards",
        ),
        Source(
            [Entry("pmc-title", 10000, "title", "PubMed Central", "open", INPUT % ("Given an abstract of a biomedical paper, generate the title.", "abstract"), "{{ title }}", require=["abstract", "title"])],
            "medline", [MEDLINE._replace(path="pubmed/pubmed-title.xml.gz")], lambda r, n: [sentence(r, TITLES), prose(r, 4, 7)],
            medline("pmc-title", lambda p: p[0], lambda p: None), lambda n: str(PMIDS["pmc-title"] + n),
        ),
        Source(
            [Entry("pmc-next-sentence", 20000, "next-sentence generation", "PubMed Central", "open",
                   "Write the next part of a biomedical paper. You're given a piece of it, and your task is to continue it. The new part should match the style and detail of the original and be medically correct.\n"
                   "INPUT: {% set s = abstract.split('. ') %}{{ s[:(s|length + 1) // 2]|join('. ') }}.\nOUTPUT:",
                   "{% set s = abstract.split('. ') %}{{ s[(s|length + 1) // 2:]|join('. ') }}", require=["abstract"])],
            "medline", [MEDLINE._replace(path="pubmed/pubmed-next-sentence.xml.gz")], lambda r, n: [prose(r, 4, 7)],
            medline("pmc-next-sentence", lambda p: None, lambda p: None), lambda n: str(PMIDS["pmc-next-sentence"] + n),
        ),
        Source(
            [Entry("pmc-keywords", 10000, "keyword prediction", "PubMed Central", "open", INPUT % ("Given an abstract of a biomedical paper, generate the MeSH terms associated with the paper.", "abstract"), "{{ mesh_text }}", require=["abstract", "mesh_text"])],
            "medline", [MEDLINE._replace(path="pubmed/pubmed-keywords.xml.gz")], lambda r, n: [prose(r, 4, 6), "; ".join(mesh_terms(r))],
            medline("pmc-keywords", lambda p: None, lambda p: p[1].split("; ")), lambda n: str(PMIDS["pmc-keywords"] + n),
        ),
        Source(
            [Entry("causal", 2450, "causal relation detection", "PubMed causal language (MedAlpaca)", "open", INPUT % ("{{ instruction }}", "input"), "{{ output }}")],
            "records", [array("medical_meadow_pubmed_causal.json")], lambda r, n: [prose(r, 2, 3), r.choice(["This describes a(n) strong causal relationship", "This describes a(n) weak causal relationship", "This describes a correlation", "This is not a relationship"])],
            lambda n, p, r: [as_json(input=p[0], output=p[1], instruction="What type of causal relationship does the following sentence describe?")], "number",
        ),
        Source(
            [Entry("umls", 10000, "relation extraction", "UMLS", "registered",
                   "Given a medical question, provide the answer to determine the relation between two medical terms in the question.\n"
                   "INPUT: {{ object }}: {{ definition1 }} {{ subject }}: {{ definition2 }} What is {{ subject }} to {{ object }}?\nOUTPUT:",
                   "{{ subject }} {{ relation }} {{ object }}.", tables={"concepts": "umls/MRCONSO.RRF", "definitions": "umls/MRDEF.RRF"})],
            "umls-relations", [File("umls/MRREL.RRF"), File("umls/MRCONSO.RRF"), File("umls/MRDEF.RRF")],
            lambda r, n: relation_parts(r), umls, lambda n: f"R{n + 1}",
        ),
        Source(
            [
                mimic_entry("mimic-course", 7500, "section summarization", "Discharge summary", "Summarize the hospital stay from the history of present illness.\nINPUT: {{ sections.history_of_present_illness }}\nOUTPUT:", "{{ sections.brief_hospital_course }}", ["sections"]),
                mimic_entry("mimic-impression", 7500, "findings to impression", "Radiology", "Derive the impression from findings in the radiology report.\nINPUT: {{ sections.findings }}\nOUTPUT:", "{{ sections.impression }}", ["sections"]),
                mimic_entry("mimic-diagnosis", 5000, "diagnosis classification", "Discharge summary", "Give the ICD-9 code of the main diagnosis.\nINPUT: {{ admission_note }}\nOUTPUT:", "{{ icd9[0] }}", ["admission_note", "icd9"]),
                mimic_entry("mimic-mortality", 5000, "in-hospital mortality", "Discharge summary", "Will the patient die in hospital?\nINPUT: {{ admission_note }}\nOUTPUT:", "{{ 'yes' if hospital_expire_flag == 1 else 'no' }}", ["admission_note"]),
                mimic_entry("mimic-medication", 5000, "medication question answering", "Discharge summary", "Which drugs were prescribed in this stay?\nINPUT: {{ admission_note }}\nOUTPUT:", "{{ drugs|join(', ') }}", ["admission_note", "drugs"]),
            ],
            "mimic-iii-notes",
            [
                File("mimic-iii/NOTEEVENTS.csv.gz", NOTE_HEAD),
                File("mimic-iii/ADMISSIONS.csv.gz", '"ROW_ID","SUBJECT_ID","HADM_ID","ADMITTIME","DISCHTIME","DEATHTIME","ADMISSION_TYPE","ADMISSION_LOCATION","DISCHARGE_LOCATION","INSURANCE","LANGUAGE","RELIGION","MARITAL_STATUS","ETHNICITY","EDREGTIME","EDOUTTIME","DIAGNOSIS","HOSPITAL_EXPIRE_FLAG","HAS_CHARTEVENTS_DATA"\n'),
                File("mimic-iii/PATIENTS.csv.gz", '"ROW_ID","SUBJECT_ID","GENDER","DOB","DOD","DOD_HOSP","DOD_SSN","EXPIRE_FLAG"\n'),
                File("mimic-iii/DIAGNOSES_ICD.csv.gz", '"ROW_ID","SUBJECT_ID","HADM_ID","SEQ_NUM","ICD9_CODE"\n'),
                File("mimic-iii/PRESCRIPTIONS.csv.gz", '"ROW_ID","SUBJECT_ID","HADM_ID","ICUSTAY_ID","STARTDATE","ENDDATE","DRUG_TYPE","DRUG","DRUG_NAME_POE","DRUG_NAME_GENERIC","FORMULARY_DRUG_CD","GSN","NDC","PROD_STRENGTH","DOSE_VAL_RX","DOSE_UNIT_RX","FORM_VAL_DISP","FORM_UNIT_DISP","ROUTE"\n'),
            ],
            note_parts, mimic, lambda n: str(n + 1), alternates=2,
        ),
    ]


SOURCES = sources()
TABLES_OF_MIMIC = {"admissions": "mimic-iii/ADMISSIONS.csv.gz", "patients": "mimic-iii/PATIENTS.csv.gz", "diagnoses": "mimic-iii/DIAGNOSES_ICD.csv.gz", "prescriptions": "mimic-iii/PRESCRIPTIONS.csv.gz"}
BY_NAME = {source.entries[0].name: at for at, source in enumerate(SOURCES)}
for entry in SOURCES[-1].entries:
    entry.keys["tables"] = TABLES_OF_MIMIC
