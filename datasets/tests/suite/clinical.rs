//! Readers of XML, annotations, UMLS tables and clinical notes, over made-up
//! files in the publishers' formats.

use std::path::{Path, PathBuf};

use datasets::Record;
use insta::assert_snapshot;
use serde_json::{Value, json};

use crate::{dropping, folder, shown};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/clinical")
}

/// The records of a source, and its errors as the user reads them.
fn read_in(root: &Path, section: Value) -> (Vec<Record>, Vec<String>) {
    let (mut records, mut errors) = (Vec::new(), Vec::new());
    match datasets::read_source(&dropping(section), root) {
        Ok(all) => {
            for record in all {
                match record {
                    Ok(record) => records.push(record),
                    Err(error) => errors.push(shown(&error)),
                }
            }
        }
        Err(error) => errors.push(shown(&error)),
    }
    let root = root.to_str().unwrap();
    let errors = errors.into_iter().map(|e| e.replace(root, "ROOT"));
    (records, errors.collect())
}

fn read(section: Value) -> (Vec<Record>, Vec<String>) {
    read_in(&fixtures(), section)
}

/// The errors of one file of a format.
fn errors(format: &str, name: &str, bytes: &[u8]) -> String {
    let root = folder([(name, bytes)]);
    let (_, errors) = read_in(root.path(), json!({"format": format, "path": name}));
    errors.join("\n")
}

fn column<'r>(records: &'r [Record], field: &str) -> Vec<&'r str> {
    records.iter().map(|r| r.text(field).unwrap()).collect()
}

#[test]
fn medquad_gives_a_row_a_pair() {
    let (rows, errors) = read(json!({"format": "medquad", "path": "medquad.xml"}));
    assert_eq!((rows.len(), errors.len()), (2, 0));
    assert_eq!(
        Value::Object(rows[0].fields.clone()),
        json!({
            "question": "What is Blue Finger ?",
            "answer": "Key Points\n- It is made-up <and> harmless.\n\n- R&D said: café &unknown; &amp;",
            "qtype": "information",
            "focus": "Blue Finger",
            "document_id": "0000001_1",
            "source": "MadeUp",
            "url": "https://example.org/a?b=1&c=2",
            "semantic_types": ["T047"],
            "cuis": ["C0000001", "C0000002"],
        })
    );
    assert_eq!(rows[1].text("answer").unwrap(), "");
    assert_eq!(rows[1].id, "s/0000001_1-2");
    assert_eq!(rows[1].provenance.record, 2);
}

#[test]
fn liveqa_test_has_paraphrases_and_joined_annotations() {
    let (rows, errors) = read(json!({"format": "liveqa-test", "path": "liveqa-test.xml"}));
    assert_eq!(column(&rows, "answer"), ["Yes.", "Perhaps."]);
    assert_eq!(rows[0].text("focus").unwrap(), "one; two");
    assert_eq!(rows[0].text("paraphrase").unwrap(), "Is it?");
    assert_eq!(rows[0].text("message").unwrap(), "is it so");
    assert_eq!(rows[0].text("type").unwrap(), "INTERACTION");
    assert_snapshot!(errors.join("\n"), @r#"
    liveqa-test.xml:18 (record 3): TQ1: a ReferenceAnswer without an ANSWER
    hint: set on_bad_record = "drop" to leave such records out; they are counted and listed
    "#);
}

#[test]
fn ddi_pairs_have_their_drugs_replaced() {
    let (rows, errors) = read(json!({"format": "ddi2013", "path": "ddi.xml"}));
    let shown: Vec<_> = rows
        .iter()
        .map(|r| [r.text("label").unwrap(), r.text("sentence").unwrap()])
        .collect();
    assert_eq!(
        shown,
        [
            [
                "DDI-mechanism",
                "él: @DRUG$ or bbb tablets may raise @DRUG$; ddd-eee is < 2 mg."
            ],
            // A mention in two pieces goes from its first character to its last.
            [
                "DDI-false",
                "él: @DRUG$ may raise ccc; @DRUG$-eee is < 2 mg."
            ],
            // Mentions that overlap are one.
            [
                "DDI-false",
                "él: @DRUG-DRUG$ may raise ccc; ddd-eee is < 2 mg."
            ],
            [
                "DDI-advise",
                "él: aaa or bbb tablets may raise @DRUG$; @DRUG$-eee is < 2 mg."
            ],
        ]
    );
    assert_eq!(rows[0].text("drug2").unwrap(), "ccc");
    assert_eq!(rows[0].text("document_id").unwrap(), "DDI-Made.d1");
    assert_eq!(rows[0].id, "s/DDI-Made.d1.s0.p0");
    assert_snapshot!(errors.join("\n"), @r#"
    ddi.xml:11 (record 4): DDI-Made.d1.s0.p3: ddi="true" without a type
    hint: set on_bad_record = "drop" to leave such records out; they are counted and listed
    ddi.xml:12 (record 5): DDI-Made.d1.s0.p4: e2 is no entity of the sentence
    hint: set on_bad_record = "drop" to leave such records out; they are counted and listed
    ddi.xml:16 (record 7): DDI-Made.d1.s1.e0: its charOffset is beyond the sentence
    hint: set on_bad_record = "drop" to leave such records out; they are counted and listed
    "#);
    let (rows, _) =
        read(json!({"format": "ddi2013", "path": "ddi.xml", "tables": {"exclude": "ddi-dev.tsv"}}));
    assert_eq!(
        column(&rows, "label"),
        ["DDI-false", "DDI-false", "DDI-advise"]
    );
}

#[test]
fn i2b2_sentences_are_marked_in_files_that_are_no_xml() {
    let (rows, errors) = read(json!({"format": "i2b2-2012", "path": "i2b2-2012/7.xml"}));
    assert_eq!(
        column(&rows, "marked"),
        [
            "01/02/2003",
            "The patient had <span class=\"problem\">\"a\" < b & fever</span> , for <span class=\"treatment\">which\nlong antibiotics</span> were given .",
            "No <span class=\"problem\">cough</span> ; <span class=\"test\">chest x-ray & CT</span> were normal .",
        ]
    );
    assert_eq!(
        rows[1].fields["entities"],
        json!([
            {"start": 16, "end": 31, "type": "problem", "text": "\"a\" < b & fever"},
            {"start": 38, "end": 60, "type": "treatment", "text": "which\nlong antibiotics"},
        ])
    );
    assert_eq!(rows[1].text("text").unwrap().lines().count(), 2);
    assert_eq!(
        (
            rows[1].text("note_id").unwrap(),
            &rows[2].fields["sentence"]
        ),
        ("7", &json!(4))
    );
    assert_snapshot!(errors.join("\n"), @r#"
    i2b2-2012/7.xml:16 (record 1): 7/E5: the event does not have the text at its offsets
    hint: set on_bad_record = "drop" to leave such records out; they are counted and listed
    i2b2-2012/7.xml:17 (record 5): 7/E6: the event does not have the text at its offsets
    hint: set on_bad_record = "drop" to leave such records out; they are counted and listed
    "#);
}

#[test]
fn i2b2_offsets_may_begin_at_the_line_break_or_after_it() {
    let note = |text: &str| {
        format!(
            "<X>\r\n<TEXT><![CDATA[{text}]]></TEXT>\r\n<TAGS>\r\n<EVENT id=\"E0\" start=\"1\" end=\"5\" text=\"Coug\" type=\"PROBLEM\" />\r\n</TAGS></X>"
        )
    };
    for text in ["Cough .\r\n", "\r\nCough .\r\n"] {
        let root = folder([("n.xml", note(text).as_bytes())]);
        let (rows, errors) = read_in(root.path(), json!({"format": "i2b2-2012", "path": "n.xml"}));
        assert_eq!(
            (column(&rows, "marked"), errors.len()),
            (vec!["<span class=\"problem\">Coug</span>h ."], 0)
        );
    }
    assert_snapshot!(errors("i2b2-2012", "n.xml", b"<X><TEXT><![CDATA[secret"), @r"
    n.xml:1: not readable XML: the text's CDATA has no end
    hint: check the source's format; a file cut short ends in the middle of an element
    ");
    assert_snapshot!(errors("i2b2-2012", "n.xml", b"<X><TEXT>a</TEXT>\n<TAGS><EVENT id=\"E0\" start=\"1"), @r"
    n.xml:2: not readable XML: an <EVENT> is not closed
    hint: check the source's format; a file cut short ends in the middle of an element
    ");
    assert_snapshot!(errors("i2b2-2012", "n.xml", b"{}"), @r"
    n.xml:1: not readable XML: there is no <TEXT> in it
    hint: check the source's format; a file cut short ends in the middle of an element
    ");
    assert_eq!(errors("i2b2-2012", "n.xml", b" \n"), "");
}

#[test]
fn brat_notes_have_their_annotations_beside_them() {
    let (rows, errors) = read(json!({"format": "brat", "path": "brat"}));
    assert_eq!((rows.len(), errors), (1, vec![]));
    let note = &rows[0];
    assert_eq!(note.text("specialty").unwrap(), "Surgery");
    assert_eq!(note.text("sample_name").unwrap(), "Made up - 1");
    assert_eq!(note.text("description").unwrap(), "A note.");
    assert_eq!(note.text("note_id").unwrap(), "one");
    let last = |field: &str| {
        note.text(field)
            .unwrap()
            .split("A note.\n")
            .nth(1)
            .unwrap()
            .to_string()
    };
    // "pain arm", in two pieces, overlaps what begins before it.
    assert_eq!(
        last("marked"),
        "Émile has <span class=\"problem\">severe weakness\nand pain</span> in arm . He takes <span class=\"drug\">aaa.</span>\n"
    );
    let kinds: Vec<_> = note.fields["entities"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["type"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["severity", "problem", "problem", "drug"]);
    assert_eq!(note.fields["entities"][2]["text"], "pain arm");
    assert_eq!(
        note.fields["relations"],
        json!([{"type": "hasAttr", "from": "T3", "to": "T1"}])
    );
}

#[test]
fn a_bad_annotation_is_named() {
    let fails = |annotations: &str| {
        let root = folder([
            ("n.txt", "caf\u{e9} secret".as_bytes()),
            ("n.ann", annotations.as_bytes()),
        ]);
        let (rows, errors) = read_in(root.path(), json!({"format": "brat", "path": "n.txt"}));
        assert_eq!(rows.len(), 0);
        errors.join("").lines().next().unwrap().to_string()
    };
    assert_snapshot!(fails("T1\tproblem 5 99\tsecret\n"), @"n.ann:1 (record 1): n: T1 is beyond the text");
    assert_snapshot!(fails("T1\tproblem 5 11\tsecret\nT2\tproblem 5 11\tother\n"), @"n.ann:2 (record 1): n: T2 does not have the text at its offsets");
    assert_snapshot!(fails("T1\tproblem 5 5\t\n"), @"n.ann:1 (record 1): n: T1 has an end that is not after its start");
    assert_snapshot!(fails("T1\tproblem five\tsecret\n"), @"n.ann:1 (record 1): n: T1 is not `type start end<TAB>text`");
    assert_snapshot!(fails("R1\thasAttr T1 T2\n"), @"n.ann:1 (record 1): n: R1 is not `type Arg1:T1 Arg2:T2`");
    assert_snapshot!(fails("R1\thasAttr Arg1:T1 Arg2:T2\n"), @"n.ann:1 (record 1): n: a relation of T1, which is not there");
    assert_snapshot!(fails("secret words\n"), @"n.ann:1 (record 1): n: a line that is no annotation");
    let root = folder([("n.txt", b"text".as_slice())]);
    let (_, errors) = read_in(root.path(), json!({"format": "brat", "path": "n.txt"}));
    assert_snapshot!(errors.join("\n"), @r"
    cannot read ROOT/n.ann: No such file or directory (os error 2)
    hint: check the path; a source's path is relative to --data-root
    ");
}

#[test]
fn sentences_of_tagged_tokens_are_marked() {
    let text = "-DOCSTART-\tO\n\nA\tx\tO\nblue\tx\tB-Disease\nfinger\tx\tI-Disease\nx\tx\tB-Disease\n\n\n\nno O\ntag B\nhere I\n\nnot\na tag\n\nlast\tQ-x\n";
    let root = folder([("chem-test.tsv", text.as_bytes())]);
    let (rows, errors) = read_in(
        root.path(),
        json!({"format": "iob", "path": "chem-test.tsv"}),
    );
    assert_eq!(
        column(&rows, "marked"),
        [
            "A <span class=\"disease\">blue finger</span> <span class=\"disease\">x</span>",
            "no <span class=\"chemical\">tag here</span>",
        ]
    );
    assert_eq!(
        rows[0].fields["tokens"],
        json!(["A", "blue", "finger", "x"])
    );
    assert_eq!(
        rows[0].fields["tags"],
        json!(["O", "B-Disease", "I-Disease", "B-Disease"])
    );
    assert_eq!(
        rows[0].fields["entities"][0],
        json!({"start": 2, "end": 13, "type": "disease", "text": "blue finger"})
    );
    assert_snapshot!(errors.join("\n"), @r#"
    chem-test.tsv:14 (record 3): sentence: a token without a tag
    hint: set on_bad_record = "drop" to leave such records out; they are counted and listed
    chem-test.tsv:17 (record 4): sentence: the last column is no tag such as O, B or I-Disease
    hint: set on_bad_record = "drop" to leave such records out; they are counted and listed
    "#);
}

#[test]
fn umls_relations_read_from_the_second_concept_to_the_first() {
    let tables = json!({"concepts": "umls/MRCONSO-whole.RRF", "definitions": "umls/MRDEF.RRF", "types": "umls/MRSTY.RRF"});
    // The fixture's bad row is for the concepts' test.
    let whole = std::fs::read_to_string(fixtures().join("umls/MRCONSO.RRF")).unwrap();
    let whole: String = whole
        .lines()
        .filter(|l| l.ends_with("||"))
        .map(|l| format!("{l}\n"))
        .collect();
    let copy = |name: &str| std::fs::read(fixtures().join(name)).unwrap();
    let root = folder([
        ("umls/MRCONSO-whole.RRF", whole.as_bytes()),
        ("umls/MRREL.RRF", &copy("umls/MRREL.RRF")),
        ("umls/MRDEF.RRF", &copy("umls/MRDEF.RRF")),
        ("umls/MRSTY.RRF", &copy("umls/MRSTY.RRF")),
    ]);
    let (rows, errors) = read_in(
        root.path(),
        json!({"format": "umls-relations", "path": "umls", "tables": tables}),
    );
    assert_eq!(
        column(&rows, "relation_text"),
        [
            "Beta inverse isa First Name",
            "Beta is broader than First Name",
            "First Name has finding site Beta",
        ]
    );
    assert_eq!(
        (
            rows[0].text("cui1").unwrap(),
            rows[0].text("name1").unwrap()
        ),
        ("C9000001", "First Name")
    );
    assert_eq!(
        (
            rows[0].text("subject").unwrap(),
            rows[0].text("object").unwrap()
        ),
        ("Beta", "First Name")
    );
    assert_eq!(rows[0].text("definition1").unwrap(), "A second definition.");
    assert_eq!(rows[0].text("definition2").unwrap(), "");
    assert_eq!(
        rows[0].fields["types1"],
        json!(["A Finding", "Disease or Syndrome"])
    );
    assert_snapshot!(errors.join("\n"), @r#"
    umls/MRREL.RRF:3: R3: C9000003 has no English name in the table concepts
    hint: set on_bad_record = "drop" to leave such records out; they are counted and listed
    umls/MRREL.RRF:5: 5 fields instead of 16
    hint: is it the table that the format reads, whole? on_bad_record = "drop" leaves such rows out
    umls/MRREL.RRF:6: R5: its REL is none of the manual's
    hint: set on_bad_record = "drop" to leave such records out; they are counted and listed
    umls/MRREL.RRF:7: CUI1: is not a concept such as C0001175
    hint: set on_bad_record = "drop" to leave such records out; they are counted and listed
    "#);
}

#[test]
fn umls_concepts_gather_their_names() {
    let section = json!({"format": "umls-concepts", "path": "umls/MRCONSO.RRF", "tables": {"types": "umls/MRSTY.RRF"}});
    let (rows, errors) = read(section);
    assert_eq!(column(&rows, "name"), ["First Name", "Beta"]);
    assert_eq!(
        rows[0].fields["synonyms"],
        json!(["Second Name", "Another Name"])
    );
    assert_eq!(rows[1].fields["types"], json!([]));
    assert_eq!(rows[1].id, "s/C9000002");
    assert_snapshot!(errors.join("\n"), @r#"
    umls/MRCONSO.RRF:9: 17 fields instead of 18
    hint: is it the table that the format reads, whole? on_bad_record = "drop" leaves such rows out
    umls/MRCONSO.RRF:10: C9000001: its rows do not stand together
    hint: set on_bad_record = "drop" to leave such records out; they are counted and listed
    umls/MRCONSO.RRF:8: C9000003: it has no English name
    hint: set on_bad_record = "drop" to leave such records out; they are counted and listed
    "#);
}

#[test]
fn a_table_that_is_missing_or_unknown_is_named() {
    let fails = |section| read(section).1.join("\n");
    assert_snapshot!(fails(json!({"format": "umls-relations", "path": "umls/MRREL.RRF"})), @r#"
    source s: format "umls-relations" needs the table "concepts"
    hint: under tables it needs concepts = "..." (MRCONSO.RRF, the names), and can have definitions = "..." (MRDEF.RRF), types = "..." (MRSTY.RRF, the semantic types)
    "#);
    assert_snapshot!(fails(json!({"format": "mimic-iv-notes", "path": "mimic-iv/discharge.csv", "tables": {"patients": "x"}})), @r#"
    source s: format "mimic-iv-notes" has no table "patients"
    hint: under tables it can have admissions = "..." (hosp/admissions.csv.gz of MIMIC-IV), prescriptions = "..." (hosp/prescriptions.csv.gz of MIMIC-IV), diagnoses = "..." (hosp/diagnoses_icd.csv.gz of MIMIC-IV)
    "#);
    assert_snapshot!(fails(json!({"format": "mimic-iv-notes", "path": "mimic-iv/discharge.csv", "tables": {"admissions": "nowhere.csv"}})), @r"
    cannot read ROOT/nowhere.csv: No such file or directory (os error 2)
    hint: check the path; a source's path is relative to --data-root
    ");
}

#[test]
fn mimic_iii_notes_are_joined_with_their_admissions() {
    let tables = json!({
        "admissions": "mimic-iii/ADMISSIONS.csv", "patients": "mimic-iii/PATIENTS.csv",
        "prescriptions": "mimic-iii/PRESCRIPTIONS.csv", "diagnoses": "mimic-iii/DIAGNOSES_ICD.csv",
    });
    let path = "mimic-iii/NOTEEVENTS.csv";
    let (rows, errors) = read(json!({"format": "mimic-iii-notes", "path": path, "tables": tables}));
    assert_eq!(rows.len(), 2);
    let mut note = rows[0].fields.clone();
    let text = note.remove("text").unwrap();
    assert!(text.as_str().unwrap().starts_with("Admission Date:"));
    assert_eq!(
        Value::Object(note),
        json!({
            "row_id": 174, "subject_id": 11, "hadm_id": 100_001,
            "category": "Discharge summary", "description": "Report", "chartdate": "2150-01-09",
            "sections": {
                "admission_date": "[**2150-1-1**]     Discharge Date:  [**2150-1-9**]",
                "chief_complaint": "a \"made-up\" cough",
                "history_of_present_illness": "Made up.",
                "allergies": "none",
                "brief_hospital_course": "RESP: given made-up drugs.",
                "medications_on_admission": "1. aaa",
                "discharge_diagnosis": "Made-up disease",
            },
            "admission_note": "CHIEF COMPLAINT: a \"made-up\" cough\n\nPRESENT ILLNESS: Made up.\n\nMEDICATION ON ADMISSION: 1. aaa\n\nALLERGIES: none",
            "admission_type": "EMERGENCY", "admission_diagnosis": "COUGH", "hospital_expire_flag": 1,
            "gender": "F", "age": 90,
            "drugs": ["zzz", "aaa extra"], "icd9": ["7862", "4019", "V1000"],
        })
    );
    let radiology = &rows[1];
    assert_eq!(radiology.id, "s/176");
    assert_eq!(radiology.fields["hadm_id"], Value::Null);
    assert_eq!(radiology.fields["age"], Value::Null);
    assert_eq!(radiology.fields["drugs"], json!([]));
    assert_eq!(
        radiology.fields["sections"],
        json!({"findings": "clear\nlungs.", "impression": "Normal."})
    );
    assert_eq!(radiology.fields["admission_note"], "");
    assert_snapshot!(errors.join("\n"), @r#"
    mimic-iii/NOTEEVENTS.csv:22 (record 2): note 175 is marked as an error (ISERROR = 1)
    hint: set on_bad_record = "drop" to leave such records out; they are counted and listed
    "#);
    // Without tables only the note's own fields are there.
    let (rows, _) = read(json!({"format": "mimic-iii-notes", "path": path}));
    assert!(!rows[0].fields.contains_key("drugs") && !rows[0].fields.contains_key("age"));
}

#[test]
fn mimic_iv_notes_are_joined_with_their_admissions() {
    let tables =
        json!({"admissions": "mimic-iv/admissions.csv", "diagnoses": "mimic-iv/diagnoses_icd.csv"});
    let (rows, errors) = read(
        json!({"format": "mimic-iv-notes", "path": "mimic-iv/discharge.csv", "tables": tables}),
    );
    assert_eq!((rows.len(), errors.len()), (1, 0));
    let note = &rows[0];
    assert_eq!(note.id, "s/10000001-DS-2");
    assert_eq!(note.fields["subject_id"], json!(10_000_001));
    assert_eq!(note.fields["icd"], json!(["ICD10:R0789", "ICD9:5723"]));
    assert_eq!(note.fields["hospital_expire_flag"], json!(0));
    assert_eq!(note.text("admission_type").unwrap(), "URGENT");
    assert_eq!(
        note.text("admission_note").unwrap(),
        "CHIEF COMPLAINT: made-up pain\n\nPHYSICAL EXAM: ADMISSION EXAM:\nwell"
    );
    let (rows, _) = read(json!({"format": "mimic-iv-notes", "path": "mimic-iv/radiology.csv"}));
    assert_eq!(rows[0].fields["hadm_id"], Value::Null);
    assert_eq!(
        rows[0].fields["sections"],
        json!({"examination": "CHEST", "findings": "Clear."})
    );
}

#[test]
fn chest_x_ray_reports_have_their_sections() {
    let (rows, errors) = read(json!({"format": "mimic-cxr", "path": "mimic-cxr/files"}));
    assert_eq!((rows.len(), errors.len()), (2, 0));
    let report = &rows[0];
    assert_eq!(
        (&report.fields["subject_id"], &report.fields["study_id"]),
        (&json!(10_000_001), &json!(50_000_001))
    );
    assert_eq!(
        report.text("findings").unwrap(),
        "The lungs are clear.\n\nNo effusion."
    );
    assert_eq!(report.text("impression").unwrap(), "Normal.");
    assert_eq!(
        report.text("indication").unwrap(),
        "___F with made-up cough"
    );
    assert_eq!(report.text("comparison").unwrap(), "None.");
    assert_eq!(report.text("examination").unwrap(), "CHEST (PA AND LAT)");
    assert_eq!(rows[1].text("findings").unwrap(), "");
    assert!(rows[1].text("indication").unwrap().starts_with("made up"));

    let tables = json!({"studies": "mimic-cxr/cxr-study-list.csv"});
    let path = "mimic-cxr/sectioned.csv";
    let (rows, errors) =
        read(json!({"format": "mimic-cxr-sectioned", "path": path, "tables": tables}));
    assert_eq!(column(&rows, "findings"), ["The lungs are\nclear.", ""]);
    assert_eq!(rows[0].fields["subject_id"], json!(10_000_001));
    assert_eq!(rows[1].fields["subject_id"], Value::Null);
    assert_snapshot!(errors.join("\n"), @r#"
    mimic-cxr/sectioned.csv:5 (record 3): study: is not a study such as s50414267
    hint: set on_bad_record = "drop" to leave such records out; they are counted and listed
    "#);
}

#[test]
fn damaged_tables_are_named() {
    let header = "note_id,subject_id,hadm_id,note_type,note_seq,charttime,storetime,text\n";
    let fails = |rows: &str| {
        errors(
            "mimic-iv-notes",
            "d.csv",
            format!("{header}{rows}").as_bytes(),
        )
    };
    assert_snapshot!(fails("1-DS-1,1,2,DS,1,,,\"secret\nand cut"), @r"
    d.csv:2 (record 1): a quoted cell has no end: is the file cut short?
    hint: compare the file's size with the publisher's
    ");
    assert_snapshot!(fails("1-DS-1,1,2,DS\n2-DS-1,x,2,DS,1,,,secret\n"), @r#"
    d.csv:2 (record 1): 4 fields instead of 8
    hint: is it the table that the format reads, whole? on_bad_record = "drop" leaves such rows out
    d.csv:3 (record 2): subject_id: is not a whole number
    hint: set on_bad_record = "drop" to leave such records out; they are counted and listed
    "#);
    assert_snapshot!(errors("mimic-iv-notes", "d.csv", b"study,impression\n"), @r#"
    d.csv:1: there is no column "note_id"
    hint: the columns are study, impression; check the source's format
    "#);
    assert_snapshot!(errors("mimic-iv-notes", "d.csv", &[header.as_bytes(), b"1,1,2,DS,1,,,caf\xe9\n"].concat()), @r"
    d.csv:2 (record 1): not valid UTF-8 (byte 3 of the record)
    hint: convert the file to UTF-8, for example with iconv -f latin1 -t utf-8
    ");
    let huge = format!("1-DS-1,1,2,DS,1,,,\"{}", "x\n".repeat(20 << 20));
    assert_snapshot!(fails(&huge), @r"
    d.csv:2 (record 1): a record larger than 32 MiB
    hint: is this a JSON file written without line ends, or another kind of file? Split long documents
    ");
    assert_eq!(errors("mimic-iv-notes", "d.csv", b""), "");
}

#[test]
fn damaged_xml_is_named() {
    let fails = |text: &str| errors("mediqa-rqe", "d.xml", text.as_bytes());
    assert_snapshot!(fails("<a>\n<pair pid=\"1\" value=\"true\"><chq>x</chq>\n<faq>secret"), @r"
    d.xml:3 (record 1): not readable XML: the file ends before its last element does
    hint: check the source's format; a file cut short ends in the middle of an element
    ");
    assert_snapshot!(fails("<a><pair pid=\"1\" value=\"true\"><chq>x</pair></a>"), @r"
    d.xml:1 (record 1): not readable XML: expected </chq>, found </pair>
    hint: check the source's format; a file cut short ends in the middle of an element
    ");
    assert_snapshot!(fails("<a><pair><chq>pain <secret & words of > 3</chq></pair></a>"), @r#"
    d.xml:1 (record 1): not readable XML: a tag's attributes are not name="value", or more than 1000
    hint: check the source's format; a file cut short ends in the middle of an element
    "#);
    assert_snapshot!(fails("<a></a></b>"), @r"
    d.xml:1: not readable XML: </b> closes nothing
    hint: check the source's format; a file cut short ends in the middle of an element
    ");
    assert_snapshot!(fails("<a>text</a>"), @r"
    d.xml:1: not readable XML: there is no <pair> in it
    hint: check the source's format; a file cut short ends in the middle of an element
    ");
    assert_snapshot!(fails("{\"not\": \"XML\"}"), @r"
    d.xml:1: not readable XML: there is no <pair> in it
    hint: check the source's format; a file cut short ends in the middle of an element
    ");
    assert_snapshot!(fails("<a><pair pid=\"7\" value=\"maybe\"/></a>"), @r#"
    d.xml:1 (record 1): 7: its value is not true or false
    hint: set on_bad_record = "drop" to leave such records out; they are counted and listed
    "#);
    assert_snapshot!(errors("mediqa-rqe", "d.xml", b"<a>\n<pair pid=\"1\"><chq>caf\xe9"), @r"
    d.xml:2 (record 1): not valid UTF-8 (byte 26 of the record)
    hint: convert the file to UTF-8, for example with iconv -f latin1 -t utf-8
    ");
    assert_eq!(fails(""), "");
    assert_eq!(fails("<?xml version=\"1.0\"?>\n"), "");
}

#[test]
fn hostile_xml_stays_small() {
    let fails = |text: &str| errors("mediqa-rqe", "d.xml", text.as_bytes());
    let deep = "<b>".repeat(100_000);
    assert_snapshot!(fails(&deep), @r"
    d.xml:1: not readable XML: elements are nested more than 256 deep
    hint: check the source's format; a file cut short ends in the middle of an element
    ");
    assert_snapshot!(fails(&format!("<pair>{deep}")), @r"
    d.xml:1 (record 1): not readable XML: elements are nested more than 256 deep
    hint: check the source's format; a file cut short ends in the middle of an element
    ");
    assert_snapshot!(fails(&format!("<pair>{}", "<b/>".repeat(1 << 21))), @r"
    d.xml:1 (record 1): not readable XML: more than 1048576 elements in one record
    hint: check the source's format; a file cut short ends in the middle of an element
    ");
    assert_snapshot!(fails(&format!("<a><pair><chq>{}", "x".repeat(33 << 20))), @r"
    d.xml:1 (record 1): a record larger than 32 MiB
    hint: is this a JSON file written without line ends, or another kind of file? Split long documents
    ");
    let attributes = "x=\"\" ".repeat(5000);
    assert_snapshot!(fails(&format!("<a><pair {attributes}></pair></a>")), @r#"
    d.xml:1: not readable XML: a tag's attributes are not name="value", or more than 1000
    hint: check the source's format; a file cut short ends in the middle of an element
    "#);
    // Entities that a document defines are not expanded.
    let bomb = "<?xml version=\"1.0\"?>\n<!DOCTYPE a [\n<!ENTITY l0 \"ha\">\n<!ENTITY l1 \"&l0;&l0;\">\n<!ENTITY f SYSTEM \"file:///etc/passwd\">\n]>\n\
        <a><pair pid=\"1\" value=\"true\"><chq>&l1;&f;</chq><faq>&#x1F600;&#0;&#xD800;</faq></pair></a>";
    let root = folder([("d.xml", bomb.as_bytes())]);
    let (rows, errors) = read_in(
        root.path(),
        json!({"format": "mediqa-rqe", "path": "d.xml"}),
    );
    assert_eq!(errors, Vec::<String>::new());
    assert_eq!(rows[0].text("chq").unwrap(), "&l1;&f;");
    assert_eq!(rows[0].text("faq").unwrap(), "\u{1F600}&#0;&#xD800;");
}

/// Whatever bytes a file has, reading it ends, in records or in errors.
#[test]
fn damaged_files_never_panic() {
    let file = |name: &str| std::fs::read(fixtures().join(name)).unwrap();
    let draws = datasets::random::Draws::new(0, "damage");
    let bytes = b"<>&;\"'|\n\t/=-:,[]] \xff\xc3\x00a1";
    let tables = json!({"concepts": "MRCONSO.RRF"});
    for (format, name, fixture) in [
        ("medquad", "d.xml", "medquad.xml"),
        ("liveqa-test", "d.xml", "liveqa-test.xml"),
        ("ddi2013", "d.xml", "ddi.xml"),
        ("medline", "d.xml", "medquad.xml"),
        ("jats", "d.xml", "medquad.xml"),
        ("i2b2-2012", "d.xml", "i2b2-2012/7.xml"),
        ("umls-relations", "d.RRF", "umls/MRREL.RRF"),
        ("umls-concepts", "d.RRF", "umls/MRCONSO.RRF"),
        ("mimic-iii-notes", "d.csv", "mimic-iii/NOTEEVENTS.csv"),
        ("mimic-iv-notes", "d.csv", "mimic-iv/discharge.csv"),
        ("mimic-cxr-sectioned", "d.csv", "mimic-cxr/sectioned.csv"),
        (
            "mimic-cxr",
            "d.txt",
            "mimic-cxr/files/p10/p10000001/s50000001.txt",
        ),
        ("iob", "d.tsv", "ddi-dev.tsv"),
        ("brat", "d.txt", "brat/one.txt"),
    ] {
        let whole = file(fixture);
        for round in 0..120 {
            let mut damaged = whole.clone();
            for change in 0..1 + round % 4 {
                let at = draws.at(round * 8 + change) as usize % damaged.len();
                let byte = bytes[draws.at(round * 8 + 4 + change) as usize % bytes.len()];
                match change % 3 {
                    0 => damaged[at] = byte,
                    1 => damaged.insert(at, byte),
                    _ => damaged.truncate(at + 1),
                }
            }
            let annotations = file("brat/one.ann");
            let root = folder([
                (name, damaged.as_slice()),
                ("d.ann", &annotations),
                (
                    "MRCONSO.RRF",
                    b"C9000001|ENG|P|L1|PF|S2|Y|A2||||M|PT|1|One|0|N||\n",
                ),
            ]);
            let mut section = json!({"format": format, "path": name});
            if format == "umls-relations" {
                section["tables"] = tables.clone();
            }
            let _ = read_in(root.path(), section);
        }
    }
}
