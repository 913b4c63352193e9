"""The sources as recipes/data/mellama-214k.toml reads them: under its paths, in their publishers' formats."""

import io
import json
import re
import zipfile
from xml.sax.saxutils import escape

from .planted import Rows, evaluation_item, scaled
from .sources import (
    BY_NAME, NOTE_HEAD, SECTIONS, SOURCES, File, array, as_json, hidden_date, line, liveqa, medline, quoted, sharegpt, tagged, umls,
)
from .words import TITLES, Random, prose, question, sentence, word

# As many rows as the tasks of MIMIC that read one file want of it, 1.5 times over.
MIMIC_NOTES, MIMIC_REPORTS = 4500, 9000
ARTICLES_A_FOLDER = 1000
# MIMIC-III says what it hides; MIMIC-IV does not.
MARK = re.compile(r"\[\*\*.*?\*\*\]")


def of_source(name, write, *files):
    """Rows of a source (as make-stand-ins plants them), written into other files."""
    return name, write, files


def instruction(number, parts, r):
    return [as_json(instruction=parts[0], input=parts[1], output=parts[2])]


def medinstruct(number, parts, r):
    return [as_json(instruction=parts[0], input=parts[1] or "<noinput>", output=parts[2])]


def answered(**fixed):
    return lambda number, parts, r: [as_json(input=parts[0], output=parts[1], **fixed)]


def icliniq(number, parts, r):
    return [as_json(input=parts[0], answer_icliniq=prose(r, 2, 5), answer_chatgpt=prose(r, 3, 6), answer_chatdoctor=parts[1])]


def dolly(number, parts, r):
    return [line(instruction=parts[0], context=parts[1], response=parts[2], category=r.choice(["open_qa", "closed_qa", "summarization"]))]


def mediqa(number, parts, r):
    return [as_json(instruction=parts[0], input=prose(r, 3, 6), output=parts[1])]


def guidelines(number, parts, r):
    return [line(response=f"Question: {parts[0]}\nAnswer: {parts[1]}"), line(id=f"{number:08x}", source="made-up", title=sentence(r, TITLES), clean_text=prose(r, 6, 9))]


def relations(number, parts, r):
    subject, relation, object_, definition1, definition2 = parts
    asked = f"{object_}: {definition1} {subject}: {definition2} What is {subject} to {object_}?"
    answer = f"{subject} {relation.split(' ')[1].replace('_', ' ') or 'is the same as'} {object_}."
    release = as_json(source="umls_relation", instruction="Given a medical question, answer it.", input=asked, output=answer)
    return [release] + umls(number, parts, r)[:2]


ROWS = [
    of_source("alpaca", instruction, array("alpaca/alpaca_data.json")),
    of_source("dolly", dolly, File("dolly/databricks-dolly-15k.jsonl")),
    of_source("sharegpt", sharegpt, array("sharegpt/ShareGPT_V3_unfiltered_cleaned_split.json")),
    of_source("healthcaremagic", answered(instruction="If you are a doctor, please answer the medical questions based on the patient's description."), array("healthcaremagic/HealthCareMagic-100k.json")),
    of_source("icliniq", icliniq, array("icliniq/iCliniq.json")),
    of_source("medinstruct", medinstruct, array("medinstruct/MedInstruct-52k.json")),
    of_source("flashcards", answered(instruction="Answer this question truthfully"), array("medical-flashcards/medical_meadow_wikidoc_medical_flashcards.json")),
    of_source("mediqa", mediqa, array("mediqa/medical_meadow_mediqa.json")),
    of_source("liveqa", liveqa, File("liveqa/TrainingDatasets/TREC-2017-LiveQA-Medical-Train-1.xml", '<?xml version="1.0" encoding="UTF-8"?>\n<NLM-QUESTIONS>\n', "", "</NLM-QUESTIONS>\n")),
    of_source("wikidoc", answered(instruction="Answer this question truthfully"), array("medalpaca/medical_meadow_small.json")),
    of_source("guidelineqa", guidelines, File("guideline-qa/guideline_qa.jsonl"), File("guidelines/open_guidelines.jsonl")),
    of_source("pmc-keywords", medline("pmc-keywords", lambda p: None, lambda p: p[1].split("; ")), File("pubmed/baseline/pubmed26n0001.xml.gz", '<?xml version="1.0" encoding="UTF-8"?>\n<PubmedArticleSet>\n', "", "</PubmedArticleSet>\n")),
    of_source("causal", answered(instruction="What type of causal relationship does the following sentence describe?"), array("pubmed-causal/medical_meadow_pubmed_causal.json")),
    of_source("umls", relations, array("pmc-llama/release.json"), File("umls/META/MRREL.RRF"), File("umls/META/MRCONSO.RRF")),
]


def write_rows(create, seed, scale):
    for name, write, files in ROWS:
        at = BY_NAME[name]
        rows = Rows(seed, scale, at)
        outs = [create(file.path) for file in files]
        for out, file in zip(outs, files):
            out.write(file.head.encode())
        for number in range(rows.count):
            _, parts = rows.row(number)
            for out, file, text in zip(outs, files, write(number, parts, Random(seed, at, number, 4))):
                out.write(((file.between if number else "") + text).encode())
        for out, file in zip(outs, files):
            out.write(file.foot.encode())
            out.close()


def write_articles(create, seed, scale):
    """PubMed Central's articles, a file each."""
    number = 0
    for name in ("pmc-title", "pmc-next-sentence"):
        rows = Rows(seed, scale, BY_NAME[name])
        for row in range(rows.count):
            _, parts = rows.row(row)
            r = Random(seed, BY_NAME[name], row, 4)
            title, abstract = (parts[0], parts[1]) if name == "pmc-title" else (sentence(r, TITLES), parts[0])
            ids = f'<article-id pub-id-type="pmid">{30_000_000 + number}</article-id><article-id pub-id-type="pmc">{7_000_000 + number}</article-id>'
            meta = f"{ids}<title-group>{tagged('article-title', title)}</title-group><abstract>{tagged('p', abstract)}</abstract>"
            journal = f"<journal-meta><journal-title-group>{tagged('journal-title', 'Journal of ' + word(r))}</journal-title-group></journal-meta>"
            body = f"<body><sec><title>Introduction</title>{tagged('p', prose(r, 3, 5))}</sec></body>"
            out = create(f"pubmed-central/oa_comm/PMC{(7_000_000 + number) // ARTICLES_A_FOLDER:04}xxx/PMC{7_000_000 + number}.xml")
            out.write(f"<article><front>{journal}<article-meta>{meta}</article-meta></front>{body}</article>\n".encode())
            out.close()
            number += 1


def write_workbook(create, seed, scale):
    """MedicationQA, which is a workbook."""
    rows = Rows(seed, scale, BY_NAME["medicationqa"])
    table = [["Question", "Focus (Drug)", "Question Type", "Answer", "Section Title", "URL"]]
    for number in range(rows.count):
        _, parts = rows.row(number)
        r = Random(seed, BY_NAME["medicationqa"], number, 4)
        table.append([parts[0], word(r, "x"), "Usage", parts[1], "Usage", f"https://example.org/{number}"])
    cell = lambda text: f'<c t="inlineStr"><is><t xml:space="preserve">{escape(text)}</t></is></c>'
    sheet = "".join(f"<row>{''.join(map(cell, row))}</row>" for row in table)
    main, kinds = "http://schemas.openxmlformats.org/spreadsheetml/2006/main", "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    packages, types = "http://schemas.openxmlformats.org/package/2006", "application/vnd.openxmlformats-officedocument.spreadsheetml"
    relation = lambda kind, target: f'<Relationships xmlns="{packages}/relationships"><Relationship Id="rId1" Type="{kinds}/{kind}" Target="{target}"/></Relationships>'
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{packages}/content-types"><Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/><Override PartName="/xl/workbook.xml" ContentType="{types}.sheet.main+xml"/><Override PartName="/xl/worksheets/sheet1.xml" ContentType="{types}.worksheet+xml"/></Types>',
        "_rels/.rels": relation("officeDocument", "xl/workbook.xml"),
        "xl/workbook.xml": f'<workbook xmlns="{main}" xmlns:r="{kinds}"><sheets><sheet name="QA" sheetId="1" r:id="rId1"/></sheets></workbook>',
        "xl/_rels/workbook.xml.rels": relation("worksheet", "worksheets/sheet1.xml"),
        "xl/worksheets/sheet1.xml": f'<worksheet xmlns="{main}"><sheetData>{sheet}</sheetData></worksheet>',
    }
    book = io.BytesIO()
    with zipfile.ZipFile(book, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in parts.items():
            archive.writestr(zipfile.ZipInfo(name), '<?xml version="1.0" encoding="UTF-8"?>\n' + text, zipfile.ZIP_DEFLATED)
    out = create("medicationqa/MedInfo2019-QA-Medications.xlsx")
    out.write(book.getvalue())
    out.close()


def discharge(parts, r):
    """A discharge summary that mentions its prescriptions, and these."""
    drugs = [text.split(" ")[1] for text in parts[4].split("\n")] + [word(r, "x").capitalize()]
    sections = [*zip(SECTIONS, parts[1:]), ("Discharge Medications", parts[4]), ("Discharge Instructions", prose(r, 2, 3))]
    return f"Admission Date:  {parts[0]}\n\n" + "\n\n".join(f"{name}:\n{text}" for name, text in sections) + "\n", drugs


def report(parts, r, examination, day):
    return f"{day}\n EXAMINATION:  {examination}\n\n FINDINGS: {parts[0]}\n\n IMPRESSION: {parts[1]}\n"


def stay(r):
    day = f"{r.between(2120, 2140)}-{r.between(1, 12):02}-{r.between(1, 28):02}"
    return day, r.choice(["EMERGENCY", "ELECTIVE", "URGENT"]), r.below(9) // 8


def write_mimic_iii(create, seed, scale):
    at = len(SOURCES) - 1
    notes = create("mimic-iii/NOTEEVENTS.csv.gz")
    tables = {
        "ADMISSIONS": '"ROW_ID","SUBJECT_ID","HADM_ID","ADMITTIME","DISCHTIME","DEATHTIME","ADMISSION_TYPE","DIAGNOSIS","HOSPITAL_EXPIRE_FLAG"\n',
        "DIAGNOSES_ICD": '"ROW_ID","SUBJECT_ID","HADM_ID","SEQ_NUM","ICD9_CODE"\n',
        "PRESCRIPTIONS": '"ROW_ID","SUBJECT_ID","HADM_ID","DRUG_TYPE","DRUG"\n',
    }
    outs = {name: create(f"mimic-iii/{name}.csv.gz") for name in tables}
    for name, head in tables.items():
        outs[name].write(head.encode())
    notes.write(NOTE_HEAD.encode())
    parts_of = SOURCES[at].parts
    for number in range(2 * scaled(MIMIC_NOTES, scale)):
        r = Random(seed, at, number, 5)
        parts, keys = parts_of(Random(seed, at, number, 2), number), f"{number + 1},{number // 3 + 1},{100_000 + number}"
        day, kind, died = stay(r)
        if number % 2:
            category, description, text = "Radiology", "CHEST (PORTABLE AP)", report(parts, r, "CHEST (PORTABLE AP)", hidden_date(r))
        else:
            category, description = "Discharge summary", "Report"
            text, drugs = discharge(parts, r)
            codes = [f"{r.between(1, 999):03}{r.below(100)}" for _ in range(r.between(1, 5))]
            outs["ADMISSIONS"].write(f'{keys},"{day} 10:00:00","{day} 22:00:00",,"{kind}","{word(r).upper()}",{died}\n'.encode())
            outs["DIAGNOSES_ICD"].write("".join(f'{keys},{n + 1},"{code}"\n' for n, code in enumerate(codes)).encode())
            outs["PRESCRIPTIONS"].write("".join(f'{keys},"MAIN","{drug}"\n' for drug in drugs).encode())
        notes.write(f'{keys},"{day}",,,"{category}","{description}",,,{quoted(text)}\n'.encode())
    for out in [notes, *outs.values()]:
        out.close()


def write_mimic_iv(create, seed, scale):
    at = len(SOURCES) + 1
    head = b"note_id,subject_id,hadm_id,note_type,note_seq,charttime,storetime,text\n"
    parts_of = SOURCES[-1].parts
    summaries, reports, stays = create("mimic-iv-note/note/discharge.csv.gz"), create("mimic-iv-note/note/radiology.csv.gz"), create("mimic-iv/hosp/admissions.csv.gz")
    summaries.write(head)
    reports.write(head)
    stays.write(b"subject_id,hadm_id,admittime,dischtime,deathtime,admission_type,hospital_expire_flag\n")
    for number in range(scaled(MIMIC_NOTES, scale)):
        r, subject, hadm = Random(seed, at, number, 5), 10_000_000 + number // 2, 20_000_000 + number
        text, _ = discharge(parts_of(Random(seed, at, number, 2), 0), r)
        day, kind, died = stay(r)
        summaries.write(f'{subject}-DS-{number},{subject},{hadm},DS,{number},{day} 00:00:00,,{quoted(MARK.sub("___", text))}\n'.encode())
        stays.write(f"{subject},{hadm},{day} 10:00:00,{day} 22:00:00,,{kind},{died}\n".encode())
    for number in range(scaled(MIMIC_REPORTS, scale)):
        r, subject = Random(seed, at + 1, number, 5), 10_000_000 + number // 2
        text = report(parts_of(Random(seed, at + 1, number, 2), 1), r, r.choice(["CT ABDOMEN", "MR HEAD", "CHEST (PA AND LAT)"]), "___")
        reports.write(f"{subject}-RR-{number},{subject},,RR,{number},2150-01-01 00:00:00,,{quoted(text)}\n".encode())
    for out in (summaries, reports, stays):
        out.close()


def write_tasks(create, seed):
    """What is asked: PubMedQA with drawn answers, and reports for MIMIC-CXR's task."""
    items = {}
    for number in range(1000):
        r = Random(seed, 97, number)
        labels = {"LABELS": ["BACKGROUND", "RESULTS"], "MESHES": [word(r)], "YEAR": str(r.between(1990, 2019))}
        items[str(20_000_000 + number)] = {
            "QUESTION": question(r), "CONTEXTS": [evaluation_item(seed, number), prose(r, 1, 2)], **labels,
            "LONG_ANSWER": prose(r, 1, 2), "final_decision": r.choice(["yes"] * 55 + ["no"] * 34 + ["maybe"] * 11),
        }
    out = create("pubmedqa/ori_pqal.json")
    out.write(json.dumps(items, indent=1).encode())
    out.close()
    for folder, first, count in (("files", 0, 60), ("test-files", 60, 60)):
        for number in range(first, first + count):
            r, subject = Random(seed, 96, number), 19_000_000 + number // 2
            out = create(f"mimic-cxr/{folder}/p{subject // 1_000_000}/p{subject}/s{59_000_000 + number}.txt")
            text = f"                                 FINAL REPORT\n EXAMINATION:  CHEST (PA AND LAT)\n\n FINDINGS:\n\n {prose(r, 2, 4)}\n\n IMPRESSION:\n\n {prose(r, 1, 2)}\n"
            out.write(text.encode())
            out.close()


def make_published(create, seed, scale):
    """Writes every file that the recipe and the tasks of mellama-214k-smollm2 read; `create` opens one for bytes."""
    write_rows(create, seed, scale)
    write_articles(create, seed, scale)
    write_workbook(create, seed, scale)
    write_mimic_iii(create, seed, scale)
    write_mimic_iv(create, seed, scale)
    write_tasks(create, seed)
