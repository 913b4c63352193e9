//! Workbooks and Parquet files, made here.

use std::io::{Cursor, Write};
use std::sync::Arc;

use insta::assert_snapshot;
use parquet::basic::{Compression, GzipLevel, ZstdLevel};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DoubleType, Int32Type, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use serde_json::{Value, json};

use crate::{folder, read_all, reading_fails, source};

fn read(name: &str, bytes: &[u8], section: Value) -> Vec<Value> {
    let root = folder([(name, bytes)]);
    let mut section = source(section);
    section.path = name.into();
    let records = read_all(&section, root.path()).unwrap();
    records
        .into_iter()
        .map(|r| Value::Object(r.fields))
        .collect()
}

fn texts<const N: usize>(texts: [&str; N]) -> [ByteArray; N] {
    texts.map(ByteArray::from)
}

/// Two rows: texts, numbers, a list, a struct, a date, nulls.
fn parquet_file(compression: Compression) -> Vec<u8> {
    let schema = "message rows {
        required binary question (UTF8);
        optional int64 cop;
        optional double score;
        required boolean open;
        required int32 day (DATE);
        optional group answers (LIST) { repeated group list { optional binary element (UTF8); } }
        required group source { required binary name (UTF8); required int32 year; }
        required binary raw;
    }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = WriterProperties::builder()
        .set_compression(compression)
        .build();
    let mut file = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties)).unwrap();
    let mut group = file.next_row_group().unwrap();
    macro_rules! column {
        ($kind:ty, $values:expr, $definitions:expr, $repetitions:expr) => {{
            let mut column = group.next_column().unwrap().unwrap();
            let definitions: Option<&[i16]> = $definitions;
            let repetitions: Option<&[i16]> = $repetitions;
            column
                .typed::<$kind>()
                .write_batch(&$values, definitions, repetitions)
                .unwrap();
            column.close().unwrap();
        }};
    }
    column!(ByteArrayType, texts(["why?", "é\n"]), None, None);
    column!(Int64Type, [3], Some(&[1, 0]), None);
    column!(DoubleType, [0.5], Some(&[0, 1]), None);
    column!(BoolType, [true, false], None, None);
    column!(Int32Type, [0, 20_000], None, None);
    column!(
        ByteArrayType,
        texts(["a", "b"]),
        Some(&[3, 2, 3, 1]),
        Some(&[0, 1, 1, 0])
    );
    column!(ByteArrayType, texts(["x", "y"]), None, None);
    column!(Int32Type, [1999, 2000], None, None);
    column!(ByteArrayType, texts(["r", "s"]), None, None);
    group.close().unwrap();
    file.into_inner().unwrap()
}

#[test]
fn parquet_gives_json_values() {
    let compressions = [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::GZIP(GzipLevel::default()),
        Compression::ZSTD(ZstdLevel::default()),
    ];
    for compression in compressions {
        let bytes = parquet_file(compression);
        assert_eq!(
            read("a.parquet", &bytes, json!({"format": "parquet"})),
            [
                json!({"question": "why?", "cop": 3, "score": null, "open": true, "day": "1970-01-01",
                    "answers": ["a", null, "b"], "source": {"name": "x", "year": 1999}, "raw": "r"}),
                json!({"question": "é\n", "cop": null, "score": 0.5, "open": false, "day": "2024-10-04",
                    "answers": [], "source": {"name": "y", "year": 2000}, "raw": "s"}),
            ],
            "{compression}"
        );
    }
    assert_eq!(
        read("a.parquet", b"", json!({"format": "parquet"})),
        [] as [Value; 0]
    );
}

#[test]
fn a_parquet_file_that_is_none_is_named() {
    let fails =
        |name: &str, bytes: &[u8], format| reading_fails(name, bytes, json!({"format": format}));
    let bytes = parquet_file(Compression::SNAPPY);
    assert_snapshot!(fails("a.parquet", b"question,answer\n", "parquet"), @r"
    a.parquet: this Parquet file cannot be read: it does not begin with PAR1
    hint: is it whole, and of the kind that the source's format says? Compare its size with the publisher's
    ");
    assert_snapshot!(fails("a.parquet", &bytes[..bytes.len() / 2], "parquet"), @r"
    a.parquet: this Parquet file cannot be read: its pages cannot be decoded: the file is cut short or damaged
    hint: is it whole, and of the kind that the source's format says? Compare its size with the publisher's
    ");
    assert_snapshot!(fails("a.parquet.gz", &bytes, "parquet"), @r"
    a.parquet.gz: this Parquet file cannot be read: its directory is at its end, so it cannot be read inside another archive: unpack it
    hint: is it whole, and of the kind that the source's format says? Compare its size with the publisher's
    ");
    assert_snapshot!(fails("a.parquet", &bytes, "medmcqa"), @r#"
    a.parquet:1: there is no column "opa"
    hint: the columns are question, cop, score, open, day, answers, source, raw
    "#);
}

#[test]
fn a_damaged_parquet_file_is_an_error_or_other_rows() {
    let bytes = parquet_file(Compression::UNCOMPRESSED);
    let section = source(json!({"format": "parquet", "path": "a.parquet"}));
    // The decoder panics on some of these; its messages would hide the test's.
    let (this, usual) = (std::thread::current().id(), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |panic| {
        if std::thread::current().id() != this {
            usual(panic);
        }
    }));
    let outcome = std::panic::catch_unwind(|| {
        let places =
            (0..bytes.len()).flat_map(|place| [(place, 0x01), (place, 0x80), (place, 0xff)]);
        let refused = places.filter(|&(place, change)| {
            let mut damaged = bytes.clone();
            damaged[place] ^= change;
            let root = folder([("a.parquet", damaged.as_slice())]);
            read_all(&section, root.path()).is_err()
        });
        refused.count()
    });
    drop(std::panic::take_hook());
    assert!(outcome.unwrap() > 100);
}

/// A workbook with the given sheets, each its name and the XML of its rows.
fn workbook(sheets: &[(&str, &str)]) -> Vec<u8> {
    let main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main";
    let office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships";
    let package = "http://schemas.openxmlformats.org/package/2006/relationships";
    let (mut listed, mut related) = (String::new(), String::new());
    let mut parts = Vec::new();
    for (i, (name, rows)) in sheets.iter().enumerate() {
        listed += &format!(
            "<sheet name=\"{name}\" sheetId=\"{0}\" r:id=\"r{0}\"/>",
            i + 1
        );
        related += &format!(
            "<Relationship Id=\"r{0}\" Type=\"{office}/worksheet\" Target=\"worksheets/s{0}.xml\"/>",
            i + 1
        );
        let sheet =
            format!("<worksheet xmlns=\"{main}\"><sheetData>{rows}</sheetData></worksheet>");
        parts.push((format!("xl/worksheets/s{}.xml", i + 1), sheet));
    }
    let book = format!(
        "<workbook xmlns=\"{main}\" xmlns:r=\"{office}\"><sheets>{listed}</sheets></workbook>"
    );
    parts.push(("xl/workbook.xml".into(), book));
    parts.push((
        "xl/_rels/workbook.xml.rels".into(),
        format!("<Relationships xmlns=\"{package}\">{related}</Relationships>"),
    ));
    parts.push((
        "_rels/.rels".into(),
        format!("<Relationships xmlns=\"{package}\"><Relationship Id=\"r1\" Type=\"{office}/officeDocument\" Target=\"xl/workbook.xml\"/></Relationships>"),
    ));
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, text) in parts {
        zip.start_file(name, zip::write::SimpleFileOptions::default())
            .unwrap();
        zip.write_all(text.as_bytes()).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn cell(place: &str, text: &str) -> String {
    format!("<c r=\"{place}\" t=\"inlineStr\"><is><t xml:space=\"preserve\">{text}</t></is></c>")
}

fn answers() -> String {
    format!(
        "<row r=\"1\">{}{}{}</row><row r=\"2\">{}<c r=\"B2\"><v>3</v></c>{}</row>\
         <row r=\"5\">{}<c r=\"B5\"><v>0.25</v></c></row><row r=\"6\">{}</row>",
        cell("A1", "Question"),
        cell("B1", " Focus (Drug) "),
        cell("C1", "Answer"),
        cell("A2", "why?"),
        cell("C2", "two\nlines"),
        cell("A5", "how?"),
        cell("D6", "secret"),
    )
}

#[test]
fn a_workbook_gives_the_rows_of_a_sheet() {
    let bytes = workbook(&[("Notes", ""), ("DrugQA", &answers())]);
    let root = folder([("a.xlsx", bytes.as_slice())]);
    let section =
        json!({"format": "xlsx", "path": "a.xlsx", "sheet": "DrugQA", "on_bad_record": "drop"});
    assert_snapshot!(crate::outcomes(&source(section), root.path()), @r#"
    s/2 {"Question":"why?","Focus (Drug)":3,"Answer":"two\nlines"}
    s/5 {"Question":"how?","Focus (Drug)":0.25,"Answer":""}
    a.xlsx:6: 4 cells in a row of 3 columns
    hint: is the row cut short, or a quotation mark missing? on_bad_record = "drop" leaves such rows out and lists them
    "#);
    assert_eq!(
        read("a.xlsx", &bytes, json!({"format": "xlsx"})),
        [] as [Value; 0]
    );
}

#[test]
fn a_workbook_that_is_none_is_named() {
    let bytes = workbook(&[("DrugQA", &answers()), ("Notes", "")]);
    let fails = |bytes: &[u8], sheet| {
        let section = json!({"format": "xlsx", "sheet": sheet});
        reading_fails("a.xlsx", bytes, section)
    };
    assert_snapshot!(fails(&bytes, "drugqa"), @r#"
    a.xlsx: there is no sheet "drugqa"
    hint: the sheets are DrugQA, Notes
    "#);
    assert_snapshot!(fails(&bytes[..bytes.len() / 2], "DrugQA"), @r"
    a.xlsx: this XLSX workbook cannot be read: invalid Zip archive: Could not find EOCD
    hint: is it whole, and of the kind that the source's format says? Compare its size with the publisher's
    ");
    assert_snapshot!(fails(b"a,b\n1,2\n", "DrugQA"), @r"
    a.xlsx: this XLSX workbook cannot be read: invalid Zip archive: Could not find EOCD
    hint: is it whole, and of the kind that the source's format says? Compare its size with the publisher's
    ");
    let cut = workbook(&[("DrugQA", "<row r=\"1\"><c r=\"A1\"")]);
    assert_snapshot!(fails(&cut, "DrugQA"), @r"
    a.xlsx: this XLSX workbook cannot be read: Xml attribute error: position 7: attribute key must be directly followed by `=` or space
    hint: is it whole, and of the kind that the source's format says? Compare its size with the publisher's
    ");
}
