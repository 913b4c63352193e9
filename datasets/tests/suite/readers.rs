//! Files become records with their place, or an error that names it.

use insta::assert_snapshot;
use serde_json::json;

use crate::{folder, read_all, reading_fails, shown, source};

fn fails(name: &str, text: &str) -> String {
    reading_fails(name, text.as_bytes(), json!({}))
}

#[test]
fn arrays_lines_and_objects_give_the_same_fields() {
    let root = folder([
        (
            "array.json",
            b"\xef\xbb\xbf [ {\"a\": \"x,]}\\\"\", \"b\": [1, {\"c\": 2}]},\n{\"a\": \"\"} ] \n"
                .as_slice(),
        ),
        (
            "lines.jsonl",
            b"{\"a\": \"x,]}\\\"\", \"b\": [1, {\"c\": 2}]}\r\n\n  \n{\"a\": \"\"}".as_slice(),
        ),
    ]);
    let array = read_all(&source(json!({"path": "array.json"})), root.path()).unwrap();
    let lines = read_all(&source(json!({"path": "lines.jsonl"})), root.path()).unwrap();
    assert_eq!(
        array.iter().map(|r| &r.fields).collect::<Vec<_>>(),
        lines.iter().map(|r| &r.fields).collect::<Vec<_>>()
    );
    // An array counts elements, a JSONL file lines.
    assert_eq!(
        array
            .iter()
            .map(|r| r.provenance.record)
            .collect::<Vec<_>>(),
        [1, 2]
    );
    assert_eq!(
        lines
            .iter()
            .map(|r| r.provenance.record)
            .collect::<Vec<_>>(),
        [1, 4]
    );
    assert_eq!(lines[1].id, "s/4");
    assert_eq!(lines[1].provenance.file, "lines.jsonl");
}

#[test]
fn empty_files_have_no_records() {
    let root = folder([
        ("empty.json", b"".as_slice()),
        ("space.json", b" \n\n"),
        ("array.json", b"[]"),
        ("object.json", b"{}"),
    ]);
    for path in ["empty.json", "space.json", "array.json"] {
        assert_eq!(
            read_all(&source(json!({"path": path})), root.path()).unwrap(),
            [],
            "{path}"
        );
    }
    let pubmedqa = source(json!({"path": "object.json", "format": "pubmedqa"}));
    assert_eq!(read_all(&pubmedqa, root.path()).unwrap(), []);
}

#[test]
fn a_folder_is_read_in_the_order_of_names() {
    let root = folder([
        ("notes/b.txt", b"second".as_slice()),
        ("notes/a.txt", b"first"),
        ("notes/sub/c.txt", b"third"),
        ("notes/.hidden", b"no"),
    ]);
    let notes = source(json!({"format": "text", "path": "notes"}));
    let records = read_all(&notes, root.path()).unwrap();
    let texts: Vec<_> = records.iter().map(|r| r.text("text").unwrap()).collect();
    assert_eq!(texts, ["first", "second", "third"]);
    assert_eq!(records[2].id, "s/sub/c.txt/1");
    assert_eq!(records[2].provenance.file, "notes/sub/c.txt");
    std::fs::create_dir(root.path().join("void")).unwrap();
    let error = read_all(&source(json!({"path": "void"})), root.path()).unwrap_err();
    assert_snapshot!(shown(&error), @r"
    source s: the folder void has no files
    hint: name the file itself, or put the files there
    ");
}

#[test]
fn a_limit_keeps_a_seeded_sample_in_order() {
    let text: String = (0..500).map(|i| format!("{{\"n\": {i}}}\n")).collect();
    let root = folder([("data.jsonl", text.as_bytes())]);
    let pick = |limit, seed| {
        let section = source(json!({"limit": limit}));
        let (records, read) =
            datasets::source::sample_records(&section, root.path(), seed).unwrap();
        assert_eq!(read, 500);
        records
            .into_iter()
            .map(|r| r.provenance.record)
            .collect::<Vec<_>>()
    };
    let (small, large) = (pick(40, 1), pick(90, 1));
    assert_eq!((small.len(), large.len()), (40, 90));
    assert!(small.is_sorted());
    // A smaller sample is part of a larger one, another seed's is another.
    assert!(small.iter().all(|n| large.contains(n)));
    assert_ne!(small, pick(40, 2));
    assert_eq!(pick(1000, 1).len(), 500);
    assert_eq!(pick(0, 1).len(), 0);
}

#[test]
fn a_bad_line_is_named() {
    let good = "{\"a\": 1}\n";
    assert_snapshot!(fails("data.jsonl", &format!("{good}{good}{{\"a\": \"secret\n{good}")), @r"
    data.jsonl:3: not valid JSON: EOF while parsing a string (column 13)
    hint: each line must be one whole JSON object (or the file one JSON array); a file cut short ends in half a record
    ");
    assert_snapshot!(fails("data.jsonl", &format!("{good}\n[1, 2]\n")), @r#"
    data.jsonl:3: expected a record (a JSON object), found a list
    hint: a record is written as {"field": ...}
    "#);
    assert_snapshot!(fails("data.jsonl", &format!("{good}{{\"a\": 1}} {{\"b\": 2}}\n")), @r"
    data.jsonl:2: not valid JSON: trailing characters (column 10)
    hint: each line must be one whole JSON object (or the file one JSON array); a file cut short ends in half a record
    ");
    assert_snapshot!(reading_fails("data.jsonl", b"{\"a\": 1}\n{\"a\": \"caf\xe9\"}\n", json!({})), @r"
    data.jsonl:2: not valid UTF-8 (byte 10 of the record)
    hint: convert the file to UTF-8, for example with iconv -f latin1 -t utf-8
    ");
    assert_snapshot!(fails("data.jsonl", &format!("{good}{{\"a\": {}1", "[".repeat(200_000))), @r"
    data.jsonl:2: not valid JSON: recursion limit exceeded (column 133)
    hint: each line must be one whole JSON object (or the file one JSON array); a file cut short ends in half a record
    ");
}

#[test]
fn a_bad_array_is_named() {
    assert_snapshot!(fails("data.json", "[{\"a\": 1},\n {\"a\":\n  secret}]"), @r"
    data.json:3 (record 2): not valid JSON: expected value (column 3)
    hint: each line must be one whole JSON object (or the file one JSON array); a file cut short ends in half a record
    ");
    assert_snapshot!(fails("data.json", "[{\"a\": 1},\n {\"a\": 2}"), @r"
    data.json:2 (record 2): not valid JSON: expected the rest of the record, found the end of the file
    hint: each line must be one whole JSON object (or the file one JSON array); a file cut short ends in half a record
    ");
    assert_snapshot!(fails("data.json", "[{\"a\": 1}\n {\"a\": 2}]"), @r"
    data.json:2 (record 1): not valid JSON: trailing characters (column 2)
    hint: each line must be one whole JSON object (or the file one JSON array); a file cut short ends in half a record
    ");
    assert_snapshot!(fails("data.json", "[{\"a\": 1},]"), @r"
    data.json:1 (record 2): not valid JSON: expected a record, found something else
    hint: each line must be one whole JSON object (or the file one JSON array); a file cut short ends in half a record
    ");
    assert_snapshot!(fails("data.json", "[{\"a\": \"cut sho"), @r"
    data.json:1 (record 1): not valid JSON: expected the rest of the record, found the end of the file
    hint: each line must be one whole JSON object (or the file one JSON array); a file cut short ends in half a record
    ");
    assert_snapshot!(fails("data.json", "[{\"a\": 1}, 7]"), @r#"
    data.json:1 (record 2): expected a record (a JSON object), found a number
    hint: a record is written as {"field": ...}
    "#);
    assert_snapshot!(fails("data.json", "[{\"a\": 1}] more"), @r"
    data.json:1 (record 2): not valid JSON: expected the end of the file, found something else
    hint: each line must be one whole JSON object (or the file one JSON array); a file cut short ends in half a record
    ");
    assert_snapshot!(fails("data.json", "[}]"), @r"
    data.json:1 (record 1): not valid JSON: expected a record, found something else
    hint: each line must be one whole JSON object (or the file one JSON array); a file cut short ends in half a record
    ");
    assert_snapshot!(reading_fails("data.json", b"[{\"a\": \"\xff\"}]", json!({})), @r"
    data.json:1 (record 1): not valid UTF-8 (byte 7 of the record)
    hint: convert the file to UTF-8, for example with iconv -f latin1 -t utf-8
    ");
    assert_snapshot!(fails("data.json", &format!("[{{\"a\": {}", "[".repeat(200_000))), @r"
    data.json:1 (record 1): not valid JSON: expected the rest of the record, found the end of the file
    hint: each line must be one whole JSON object (or the file one JSON array); a file cut short ends in half a record
    ");
}

#[test]
fn another_kind_of_file_is_named() {
    assert_snapshot!(fails("data.csv", "question,answer\n"), @r"
    data.csv:1: expected a JSON array or lines of JSON objects, found 'q'
    hint: check the source's format
    ");
    assert_snapshot!(reading_fails("data.parquet", b"\x00PAR1", json!({})), @r"
    data.parquet:1: expected a JSON array or lines of JSON objects, found the byte 0x00
    hint: check the source's format
    ");
    assert_snapshot!(reading_fails("data.json", b"[]", json!({"format": "pubmedqa"})), @r"
    data.json:1: expected a JSON object of records, found an array
    hint: check the source's format
    ");
    assert_snapshot!(reading_fails("data.json", b"{\"1\" 2}", json!({"format": "pubmedqa"})), @r"
    data.json:1 (record 1): not valid JSON: expected a record's key (a string)
    hint: each line must be one whole JSON object (or the file one JSON array); a file cut short ends in half a record
    ");
    assert_snapshot!(reading_fails("data.json", b"{1: {}}", json!({"format": "pubmedqa"})), @r"
    data.json:1 (record 1): not valid JSON: expected a record's key (a string)
    hint: each line must be one whole JSON object (or the file one JSON array); a file cut short ends in half a record
    ");
    assert_snapshot!(reading_fails("note.txt", b"fi\xe8vre", json!({"format": "text"})), @r"
    note.txt:1: not valid UTF-8 (byte 2 of the record)
    hint: convert the file to UTF-8, for example with iconv -f latin1 -t utf-8
    ");
    let error = read_all(
        &source(json!({"path": "nowhere.jsonl"})),
        std::path::Path::new("ROOT"),
    )
    .unwrap_err();
    assert_snapshot!(shown(&error), @r"
    cannot read ROOT/nowhere.jsonl: No such file or directory (os error 2)
    hint: check the path; a source's path is relative to --data-root
    ");
}

#[test]
fn a_huge_record_is_refused_before_it_fills_memory() {
    let huge = format!("{{\"a\": 1}}\n{{\"a\": \"{}", "x".repeat(100 << 20));
    assert_snapshot!(fails("data.jsonl", &huge), @r"
    data.jsonl:2: a record larger than 32 MiB
    hint: is this a JSON file written without line ends, or another kind of file? Split long documents
    ");
    let huge = huge.replacen('\n', ",\n", 1);
    assert_snapshot!(fails("data.json", &format!("[{huge}")), @r"
    data.json:2 (record 2): a record larger than 32 MiB
    hint: is this a JSON file written without line ends, or another kind of file? Split long documents
    ");
    assert_snapshot!(reading_fails("note.txt", &vec![b'x'; 33 << 20], json!({"format": "text"})), @r"
    note.txt:1: a record larger than 32 MiB
    hint: is this a JSON file written without line ends, or another kind of file? Split long documents
    ");
}

/// The error of making a sample of one record.
fn making_fails(format: &str, record: serde_json::Value) -> String {
    let root = folder([("data.jsonl", record.to_string().as_bytes())]);
    let section = json!({"source": [{"name": "s", "format": format, "path": "data.jsonl"}]});
    let section = serde_json::from_value(section).unwrap();
    let out = tempfile::tempdir().unwrap();
    shown(
        &datasets::build(
            &section,
            root.path(),
            out.path(),
            &datasets::BuildOptions::default(),
        )
        .unwrap_err(),
    )
}

#[test]
fn a_record_of_another_shape_is_named() {
    assert_snapshot!(making_fails("alpaca", json!({"instruction": "secret", "answer": "secret"})), @r#"
    sample s/1 (data.jsonl, record 1): field "output" should be a string, but is missing
    hint: the record has instruction, answer
    "#);
    assert_snapshot!(making_fails("alpaca", json!({"instruction": 3, "output": "secret"})), @r#"
    sample s/1 (data.jsonl, record 1): field "instruction" should be a string, found a number
    hint: the record has instruction, output
    "#);
    assert_snapshot!(making_fails("prompt-completion", json!({})), @r#"
    sample s/1 (data.jsonl, record 1): field "prompt" should be a string, but is missing
    hint: the record has no fields
    "#);
    assert_snapshot!(making_fails("messages", json!({"messages": "secret"})), @r#"
    sample s/1 (data.jsonl, record 1): field "messages" should be a list of messages, found a string
    hint: the record has messages
    "#);
    assert_snapshot!(making_fails("messages", json!({"messages": [{"role": "user", "content": ["secret"]}]})), @r#"
    sample s/1 (data.jsonl, record 1): field "messages[0].content" should be a string, found a list
    hint: the record has messages
    "#);
    assert_snapshot!(making_fails("messages", json!({"messages": [{"role": "user", "content": "hi"}, {"role": "tool", "content": "secret"}]})), @r#"
    sample s/1 (data.jsonl, record 1): message 2 has the role "tool"
    hint: the roles are system, user, assistant
    "#);
    assert_snapshot!(making_fails("sharegpt", json!({"conversations": [{"from": "a secret", "value": "x"}]})), @r"
    sample s/1 (data.jsonl, record 1): message 1 has the role (a text of 8 bytes)
    hint: the roles are system, human, user, gpt, agent, assistant
    ");
    assert_snapshot!(making_fails("records", json!({"a": 1})), @r#"
    source s: records of format "records" need a [source.task] to become conversations
    hint: add [data.source.task] with prompt = "{{ question }}" and answer = "{{ answer }}", naming the records' fields
    "#);
}

#[test]
fn a_record_without_an_answer_is_named() {
    assert_snapshot!(making_fails("alpaca", json!({"instruction": "secret", "output": " \n"})), @r"
    sample s/1 (data.jsonl, record 1): the answer (message 2) is empty
    hint: leave the record out, or give it an answer
    ");
    assert_snapshot!(making_fails("messages", json!({"messages": [{"role": "user", "content": "secret"}]})), @r"
    sample s/1 (data.jsonl, record 1): no assistant message
    hint: an assistant message is what tuning teaches; leave the record out
    ");
    assert_snapshot!(making_fails("text", json!({"text": " "})), @r"
    sample s/1 (data.jsonl, record 1): no target token
    hint: a document needs at least one token
    ");
}

/// The real files, where they are: every record becomes a sample.
#[test]
fn the_real_files_have_the_published_counts() {
    let Some(root) = std::env::var_os("MEDTUNE_TEST_DATA").map(std::path::PathBuf::from) else {
        eprintln!("skipped: MEDTUNE_TEST_DATA names no folder with the published files");
        return;
    };
    let task = json!({"prompt": "{{ question }}", "answer": "{{ answer }}"});
    let counts = [
        ("alpaca", "alpaca/alpaca_5000.json", 5000),
        (
            "alpaca",
            "alpacare/reference_gpt4/iCliniq_output.jsonl",
            1000,
        ),
        ("alpaca", "chatdoctor/chatdoctor5k.json", 5452),
        ("alpaca", "medalpaca/medical_meadow_small.json", 5942),
        ("sharegpt", "sharegpt/dummy_conversation.json", 500),
        ("records", "gsm8k/test.jsonl", 1319),
    ];
    for (format, path, count) in counts {
        let mut section = json!({"source": [{"name": "s", "format": format, "path": path}]});
        if format == "records" {
            section["source"][0]["task"] = task.clone();
        }
        let section = serde_json::from_value(section).unwrap();
        let records = read_all(&source(json!({"format": format, "path": path})), &root).unwrap();
        assert_eq!(records.len(), count, "{path}");
        let out = tempfile::tempdir().unwrap();
        match datasets::build(
            &section,
            &root,
            out.path(),
            &datasets::BuildOptions::default(),
        ) {
            Ok(built) => assert_eq!(built.counts["train"], count as u64, "{path}"),
            // Alpaca has real records without an answer; they are named.
            Err(error) => eprintln!("{path}: {error}"),
        }
    }
}

/// Whatever bytes a file has, reading it ends, in records or in an error.
#[test]
fn damaged_files_never_panic() {
    let whole = b"[{\"a\": \"x\\n\xc3\xa9\", \"b\": [1, {\"c\": null}]},\n {\"a\": \"\"}]\n";
    let bytes = b"[]{}\",:\\\n \xff\xc3\x00a1-";
    let draws = datasets::random::Draws::new(0, "damage");
    for round in 0..600 {
        let mut damaged = whole.to_vec();
        for change in 0..1 + round % 4 {
            let at = draws.at(round * 8 + change) as usize % damaged.len();
            let byte = bytes[draws.at(round * 8 + 4 + change) as usize % bytes.len()];
            if change % 2 == 0 {
                damaged[at] = byte
            } else {
                damaged.truncate(at + 1)
            }
        }
        let root = folder([("data.json", damaged.as_slice())]);
        for format in ["records", "pubmedqa", "text"] {
            let section = source(json!({"path": "data.json", "format": format}));
            let _ = read_all(&section, root.path());
        }
    }
}
