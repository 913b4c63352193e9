//! Tables, workbooks and Parquet: what they become, and what is wrong with the
//! hostile ones.

use std::io::Write;

use datasets::recipe::SourceSection;
use insta::assert_snapshot;
use serde_json::{Value, json};

use crate::{folder, outcomes, read_all, reading_fails, source};

fn table_fails(name: &str, bytes: &[u8], format: &str) -> String {
    reading_fails(name, bytes, json!({"format": format}))
}

/// The fields of all records of one file.
fn fields(name: &str, bytes: &[u8], section: Value) -> Vec<Value> {
    let root = folder([(name, bytes)]);
    let mut section = source(section);
    section.path = name.into();
    let records = read_all(&section, root.path()).unwrap();
    records
        .into_iter()
        .map(|r| Value::Object(r.fields))
        .collect()
}

#[test]
fn a_table_gives_its_cells_by_column() {
    let text =
        "\u{feff}, Text ,note\r\n0,\"two\r\nlines, \"\"quoted\"\"\",\r\n\r\n1,a \"b\" c,\"\"\r\n";
    let root = folder([("data.csv", text.as_bytes())]);
    let section = source(json!({"format": "csv", "path": "data.csv"}));
    let records = read_all(&section, root.path()).unwrap();
    let fields: Vec<_> = records.iter().map(|r| json!(r.fields)).collect();
    assert_eq!(
        fields,
        [
            json!({"index": "0", "Text": "two\r\nlines, \"quoted\"", "note": ""}),
            json!({"index": "1", "Text": "a \"b\" c", "note": ""}),
        ]
    );
    // A row's number is the line it begins on.
    let lines: Vec<_> = records.iter().map(|r| r.provenance.record).collect();
    assert_eq!(lines, [2, 5]);
    assert_eq!(records[1].id, "s/5");
}

#[test]
fn a_table_may_have_tabs_and_no_header() {
    let section = json!({"format": "tsv", "columns": ["a", "b"]});
    assert_eq!(
        fields("data.tsv", b"1,2\t\"x\ty\"\n3\t4", section),
        [
            json!({"a": "1,2", "b": "x\ty"}),
            json!({"a": "3", "b": "4"})
        ]
    );
    assert_eq!(
        fields("data.csv", b"", json!({"format": "csv"})),
        [] as [Value; 0]
    );
    assert_eq!(
        fields("data.csv", b"a,b\n", json!({"format": "csv"})),
        [] as [Value; 0]
    );
}

#[test]
fn a_bad_row_is_named() {
    assert_snapshot!(table_fails("data.csv", b"a,b\n1,2\n\"3\n4\",5,secret\n", "csv"), @r#"
    data.csv:3: 3 cells in a row of 2 columns
    hint: is the row cut short, or a quotation mark missing? on_bad_record = "drop" leaves such rows out and lists them
    "#);
    assert_snapshot!(table_fails("data.csv", b"a,b\n1,2\n3,\"sec\nret", "csv"), @r"
    data.csv:3: the quotation mark that opens cell 2 is never closed
    hint: is the file cut short? A quotation mark inside a quoted cell is written twice
    ");
    assert_snapshot!(table_fails("data.csv", b"a,b\n1,2\n3,\"x\ncaf\xe9\"\n", "csv"), @r"
    data.csv:3: not valid UTF-8 (byte 8 of the record)
    hint: convert the file to UTF-8, for example with iconv -f latin1 -t utf-8
    ");
    assert_snapshot!(table_fails("data.csv", b"a,b\n1,2\n3", "csv"), @r#"
    data.csv:3: 1 cells in a row of 2 columns
    hint: is the row cut short, or a quotation mark missing? on_bad_record = "drop" leaves such rows out and lists them
    "#);
}

#[test]
fn wrong_columns_are_named() {
    assert_snapshot!(table_fails("hoc.tsv", b"pmid\tTexts\tlabels\n1\tx\ty\n", "hoc"), @r#"
    hoc.tsv:1: there is no column "text"
    hint: did you mean "Texts"? the columns are pmid, Texts, labels
    "#);
    assert_snapshot!(table_fails("hoc.tsv", b"pmid,text,labels\n", "hoc"), @r#"
    hoc.tsv:1: there is no column "pmid"
    hint: the columns are (a text of 16 bytes); if the table has no header, name its columns with columns = [..]
    "#);
    assert_snapshot!(table_fails("hoc.tsv", b"1\tA man, 41, was seen in the clinic\tx\n", "hoc"), @r#"
    hoc.tsv:1: there is no column "pmid"
    hint: the columns are 1, (a text of 33 bytes), x; if the table has no header, name its columns with columns = [..]
    "#);
    assert_snapshot!(table_fails("a.csv", b"a,b,a\n1,2,3\n", "csv"), @r"
    a.csv:1: two columns are named a
    hint: give every column a name of its own
    ");
    assert_snapshot!(table_fails("a.csv", &[b','; 1 << 20], "csv"), @r#"
    a.csv:1: 1048577 cells in a row of 16384 columns
    hint: is the row cut short, or a quotation mark missing? on_bad_record = "drop" leaves such rows out and lists them
    "#);
    let header: String = (0..30).map(|i| format!("c{i},")).collect();
    assert_snapshot!(table_fails("a.csv", header.as_bytes(), "mtsamples"), @r#"
    a.csv:1: there is no column "description"
    hint: the columns are c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11, c12, c13, c14, c15, c16, c17, c18, c19 and 11 more
    "#);
}

/// A file that begins as given, goes on with zeros to `length` bytes and ends
/// as given; the zeros take no room on the disk.
fn sparse(name: &str, begin: &[u8], length: u64, end: &[u8]) -> tempfile::TempDir {
    let root = folder([(name, begin)]);
    let path = root.path().join(name);
    let mut file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
    file.set_len(length).unwrap();
    file.write_all(end).unwrap();
    root
}

#[test]
fn a_gigabyte_in_one_record_is_refused() {
    let lines = source(json!({"on_bad_record": "drop"}));
    let root = sparse(
        "data.jsonl",
        b"{\"a\": 1}\n{\"b\": \"",
        1 << 30,
        b"\n{\"c\": 2}\n",
    );
    // The line after it is read all the same.
    assert_snapshot!(outcomes(&lines, root.path()), @r#"
    s/1 {"a":1}
    data.jsonl:2: a record larger than 32 MiB
    hint: is this a JSON file written without line ends, or another kind of file? Split long documents
    s/3 {"c":2}
    "#);
    let quoted = source(json!({"format": "csv", "path": "a.csv", "on_bad_record": "drop"}));
    let root = sparse("a.csv", b"a,b\n1,2\n3,\"", 1 << 30, b"\n5,6\n");
    assert_snapshot!(outcomes(&quoted, root.path()), @r#"
    s/2 {"a":"1","b":"2"}
    a.csv:3: a record larger than 32 MiB
    hint: is this a JSON file written without line ends, or another kind of file? Split long documents
    "#);
    let bare = source(json!({"format": "tsv", "path": "a.tsv"}));
    let root = sparse("a.tsv", b"", 1 << 30, b"");
    assert_snapshot!(outcomes(&bare, root.path()), @r"
    a.tsv:1: a record larger than 32 MiB
    hint: is this a JSON file written without line ends, or another kind of file? Split long documents
    ");
    let array = source(json!({"path": "a.json"}));
    let root = sparse("a.json", b"[{\"a\": \"\"}, {\"b\": [\"", 1 << 30, b"");
    assert_snapshot!(outcomes(&array, root.path()), @r#"
    s/1 {"a":""}
    a.json:1 (record 2): a record larger than 32 MiB
    hint: is this a JSON file written without line ends, or another kind of file? Split long documents
    "#);
}

#[test]
fn bad_records_are_dropped_where_the_recipe_says_so() {
    let root = folder([
        (
            "all/a.jsonl",
            b"{\"a\": 1}\n{\"a\": \n[2]\n{\"a\": \"\xff\"}\n{\"a\": 3}\n".as_slice(),
        ),
        (
            "all/b.json",
            b"[{\"a\": 4}, 5, {\"a\": x}, {\"a\": 6}, {\"a\": 7",
        ),
        ("all/c.jsonl", b"{\"a\": 8}"),
        ("a.csv", b"a,b\n1\n2,3\n4,5,6\n7,\"8\n"),
    ]);
    let drop = source(json!({"path": "all", "on_bad_record": "drop"}));
    assert_snapshot!(outcomes(&drop, root.path()), @r#"
    s/a.jsonl/1 {"a":1}
    all/a.jsonl:2: not valid JSON: EOF while parsing a value (column 6)
    hint: each line must be one whole JSON object (or the file one JSON array); a file cut short ends in half a record
    all/a.jsonl:3: expected a record (a JSON object), found a list
    hint: a record is written as {"field": ...}
    all/a.jsonl:4: not valid UTF-8 (byte 7 of the record)
    hint: convert the file to UTF-8, for example with iconv -f latin1 -t utf-8
    s/a.jsonl/5 {"a":3}
    s/b.json/1 {"a":4}
    all/b.json:1 (record 2): expected a record (a JSON object), found a number
    hint: a record is written as {"field": ...}
    all/b.json:1 (record 3): not valid JSON: expected value (column 7)
    hint: each line must be one whole JSON object (or the file one JSON array); a file cut short ends in half a record
    s/b.json/4 {"a":6}
    all/b.json:1 (record 5): not valid JSON: expected the rest of the record, found the end of the file
    hint: each line must be one whole JSON object (or the file one JSON array); a file cut short ends in half a record
    s/c.jsonl/1 {"a":8}
    "#);
    let stop = SourceSection {
        on_bad_record: Default::default(),
        ..drop
    };
    assert_snapshot!(outcomes(&stop, root.path()), @r#"
    s/a.jsonl/1 {"a":1}
    all/a.jsonl:2: not valid JSON: EOF while parsing a value (column 6)
    hint: each line must be one whole JSON object (or the file one JSON array); a file cut short ends in half a record
    "#);
    let table = source(json!({"format": "csv", "path": "a.csv", "on_bad_record": "drop"}));
    assert_snapshot!(outcomes(&table, root.path()), @r#"
    a.csv:2: 1 cells in a row of 2 columns
    hint: is the row cut short, or a quotation mark missing? on_bad_record = "drop" leaves such rows out and lists them
    s/3 {"a":"2","b":"3"}
    a.csv:4: 3 cells in a row of 2 columns
    hint: is the row cut short, or a quotation mark missing? on_bad_record = "drop" leaves such rows out and lists them
    a.csv:5: the quotation mark that opens cell 2 is never closed
    hint: is the file cut short? A quotation mark inside a quoted cell is written twice
    "#);
    // A recipe's mistake is no bad record.
    let wrong = source(json!({"format": "hoc", "path": "a.csv", "on_bad_record": "drop"}));
    assert_snapshot!(outcomes(&wrong, root.path()), @r#"
    a.csv:1: there is no column "pmid"
    hint: the columns are (a text of 3 bytes); if the table has no header, name its columns with columns = [..]
    "#);
}

#[test]
fn a_compressed_file_that_ends_early_is_named() {
    let rows: String = (0..20_000)
        .map(|i| format!("{i},{}\n", i * 7919 % 10007))
        .collect();
    let text = format!("a,b\n{rows}");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(text.as_bytes()).unwrap();
    let gzip = gzip.finish().unwrap();
    let zstandard = zstd::encode_all(text.as_bytes(), 3).unwrap();
    assert_eq!(
        fields("a.csv.gz", &gzip, json!({"format": "csv"})).len(),
        20_000
    );
    assert_eq!(
        fields("a.csv.zst", &zstandard, json!({"format": "csv"})).len(),
        20_000
    );
    assert_snapshot!(table_fails("a.csv.gz", &gzip[..gzip.len() / 2], "csv"), @r"
    a.csv.gz:10110: the compressed file ends early
    hint: it was cut or changed on its way: get it again, and compare its size with the publisher's
    ");
    assert_snapshot!(table_fails("a.csv.gz", &gzip[..12], "csv"), @r"
    a.csv.gz:1: the compressed file ends early
    hint: it was cut or changed on its way: get it again, and compare its size with the publisher's
    ");
    assert_snapshot!(table_fails("a.csv.zst", &zstandard[..zstandard.len() / 2], "csv"), @r"
    a.csv.zst:1: the compressed file ends early
    hint: it was cut or changed on its way: get it again, and compare its size with the publisher's
    ");
    let mut damaged = gzip.clone();
    let checksum = gzip.len() - 6;
    damaged[checksum] ^= 1;
    assert_snapshot!(table_fails("a.csv.gz", &damaged, "csv"), @r"
    a.csv.gz:20002: the compressed file is damaged
    hint: it was cut or changed on its way: get it again, and compare its size with the publisher's
    ");
    // Every cut is an error, and never a panic.
    for cut in (0..gzip.len()).step_by(997) {
        let root = folder([("a.csv.gz", &gzip[..cut])]);
        let section = source(json!({"format": "csv", "path": "a.csv.gz"}));
        let read = read_all(&section, root.path());
        assert!(cut == 0 || read.is_err(), "{cut}");
    }
}
