//! The PHI scanner: how much it finds in notes whose identifiers are known,
//! what it wrongly finds, and that no text makes it panic.

use std::collections::BTreeMap;
use std::time::Instant;

use datasets::clean::phi::{Finding, PhiClass, Scanner, counts, redact};

const FIXTURE: &str = include_str!("../data/phi/notes.jsonl");

#[derive(serde::Deserialize)]
struct Note {
    text: String,
    phi: Vec<Truth>,
}

/// An identifier that the generator wrote; offsets in characters.
#[derive(serde::Deserialize)]
struct Truth {
    class: PhiClass,
    start: usize,
    end: usize,
}

#[derive(Default, Clone, Copy)]
struct Row {
    truths: usize,
    found: usize,
    found_as_class: usize,
    findings: usize,
    true_findings: usize,
}

fn notes() -> Vec<Note> {
    let other = std::env::var("MEDTUNE_PHI_NOTES").ok();
    let text = other.map_or(FIXTURE.to_string(), |path| {
        std::fs::read_to_string(path).unwrap()
    });
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Which bytes of a text are in one of the spans.
fn covered(len: usize, spans: impl Iterator<Item = (usize, usize)>) -> Vec<bool> {
    let mut covered = vec![false; len];
    for (start, end) in spans {
        covered[start..end].fill(true);
    }
    covered
}

/// At least half of a span is covered.
fn half(covered: &[bool], start: usize, end: usize) -> bool {
    covered[start..end].iter().filter(|&&c| c).count() * 2 >= end - start
}

fn measure(notes: &[Note]) -> BTreeMap<PhiClass, Row> {
    let scanner = Scanner::new();
    let show = std::env::var("MEDTUNE_PHI_SHOW").is_ok();
    let mut rows: BTreeMap<PhiClass, Row> = BTreeMap::new();
    for note in notes {
        let text = &note.text;
        let mut bytes: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
        bytes.push(text.len());
        let spans: Vec<(PhiClass, usize, usize)> = note
            .phi
            .iter()
            .map(|truth| (truth.class, bytes[truth.start], bytes[truth.end]))
            .collect();
        let findings = scanner.scan(text);
        let by = |class: Option<PhiClass>| {
            let of = move |f: &&Finding| class.is_none_or(|class| f.class == class);
            covered(
                text.len(),
                findings.iter().filter(of).map(|f| (f.start, f.end)),
            )
        };
        let any = by(None);
        for &(class, start, end) in &spans {
            let row = rows.entry(class).or_default();
            row.truths += 1;
            row.found += usize::from(half(&any, start, end));
            row.found_as_class += usize::from(half(&by(Some(class)), start, end));
            if show && !half(&by(Some(class)), start, end) {
                println!("missed {class:?}: {:?}", around(text, start, end));
            }
        }
        let truth = covered(
            text.len(),
            spans.iter().map(|&(_, start, end)| (start, end)),
        );
        for finding in &findings {
            let row = rows.entry(finding.class).or_default();
            row.findings += 1;
            let right = half(&truth, finding.start, finding.end);
            row.true_findings += usize::from(right);
            if show && !right {
                println!(
                    "false {:?}: {:?}",
                    finding.class,
                    around(text, finding.start, finding.end)
                );
            }
        }
    }
    rows
}

fn around(text: &str, start: usize, end: usize) -> String {
    let clamp = |mut at: usize| {
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let head = clamp(start.saturating_sub(40));
    let tail = clamp((end + 25).min(text.len()));
    format!(
        "{}<<{}>>{}",
        &text[head..start],
        &text[start..end],
        &text[end..tail]
    )
}

/// The table of docs/phi.md: run with `-- phi::recall --nocapture`.
#[test]
fn recall_and_precision_on_notes_with_known_identifiers() {
    let notes = notes();
    let rows = measure(&notes);
    let share = |part: usize, whole: usize| 100.0 * part as f64 / whole.max(1) as f64;
    let mut all = Row::default();
    println!("| class | identifiers | found | as that class | findings | precision |");
    println!("|---|---|---|---|---|---|");
    for (class, row) in &rows {
        println!(
            "| `{}` | {} | {:.1} % | {:.1} % | {} | {:.1} % |",
            class.name(),
            row.truths,
            share(row.found, row.truths),
            share(row.found_as_class, row.truths),
            row.findings,
            share(row.true_findings, row.findings),
        );
        all.truths += row.truths;
        all.found += row.found;
        all.found_as_class += row.found_as_class;
        all.findings += row.findings;
        all.true_findings += row.true_findings;
    }
    let (recall, precision) = (
        share(all.found, all.truths),
        share(all.true_findings, all.findings),
    );
    println!(
        "| all | {} | {recall:.1} % | {:.1} % | {} | {precision:.1} % |",
        all.truths,
        share(all.found_as_class, all.truths),
        all.findings
    );
    let classes = rows.values().filter(|row| row.truths > 0).count();
    assert_eq!(classes, PhiClass::ALL.len(), "every class is in the notes");
    assert!(recall >= 98.0, "recall {recall:.2} %");
    assert!(precision >= 95.0, "precision {precision:.2} %");
}

#[test]
fn redacted_text_is_clean() {
    let scanner = Scanner::new();
    let mut texts: Vec<String> = notes().into_iter().map(|note| note.text).collect();
    texts.extend(shuffled_pieces());
    for text in texts {
        let findings = scanner.scan(&text);
        let redacted = redact(&text, &findings);
        let again = scanner.scan(&redacted);
        assert!(again.is_empty(), "{redacted}\n{again:?}");
    }
}

/// Pieces of identifiers in any order, so that findings touch and overlap.
fn shuffled_pieces() -> Vec<String> {
    let pieces = [
        "Dr. ",
        "Smith",
        ", ",
        "John ",
        "MRN",
        ": ",
        "12345",
        "-",
        "3/14",
        "2019",
        " on ",
        "March ",
        "3",
        "rd",
        " 617-555-1234",
        " fax ",
        "@",
        "example.com",
        ".",
        "\n",
        "Name: ",
        "né ",
        "日本",
        "é",
        "[NAME]",
        "[**",
        "**]",
        "___",
        "|",
        "(",
        ")",
        " 93-year-old ",
        "12 Elm St",
        " MA 02139",
        "www.",
        "SSN ",
        "000-12-3456",
        " to ",
        "plate ABC 123",
        "J. ",
        "'s",
        " MD",
        "wife ",
        "1:2::3",
        "/",
        "IMG_1.jpg",
    ];
    let draw = datasets::random::Draws::new(7, "phi pieces");
    (0..3000)
        .map(|i| {
            (0..12)
                .map(|j| pieces[draw.at(12 * i + j) as usize % pieces.len()])
                .collect()
        })
        .collect()
}

#[test]
fn findings_are_sorted_apart_and_at_characters() {
    let scanner = Scanner::new();
    for text in shuffled_pieces() {
        let mut at = 0;
        for finding in scanner.scan(&text) {
            assert!(finding.start >= at && finding.start < finding.end, "{text}");
            assert!(text.get(finding.start..finding.end).is_some(), "{text}");
            at = finding.end;
        }
    }
}

#[test]
fn each_class_has_its_surrogate() {
    let text = "Name: Ada Lovelace, 12 Elm Street, DOB 3/14/1931, 93-year-old, tel 617-555-0100, fax 617-555-0199, ada@example.org, \
        SSN 123-45-6789, MRN 0043512, member ID W12345678, account number 99887766, DEA AB1234567, license plate ABC 1234, \
        serial number PJN447123, https://example.org/x, 10.1.2.3, fingerprint ID FP-1234, photo IMG_1234.jpg, case no. 19-00412";
    let findings = Scanner::new().scan(text);
    insta::assert_snapshot!(redact(text, &findings), @"Name: [NAME], [PLACE], DOB [DATE], [AGE]-year-old, tel [PHONE], fax [FAX], [EMAIL], SSN [SSN], MRN [MRN], member ID [HEALTH_PLAN], account number [ACCOUNT], DEA [LICENCE], license plate [VEHICLE], serial number [DEVICE], [URL], [IP], fingerprint ID [BIOMETRIC], photo [PHOTO], case no. [OTHER_ID]");
    let counts = counts(&findings);
    assert_eq!(counts.len(), PhiClass::ALL.len());
    for class in PhiClass::ALL {
        let json = serde_json::to_string(&class).unwrap();
        assert_eq!(json, format!("\"{}\"", class.name()));
        assert_eq!(
            class.surrogate(),
            format!("[{}]", class.name().to_uppercase())
        );
    }
}

#[test]
fn medicine_is_not_mistaken_for_people_and_dates() {
    let scanner = Scanner::new();
    for text in [
        "Parkinson's disease, Hodgkin lymphoma, Crohn's disease, Cushing syndrome.",
        "Foley catheter, Jackson-Pratt drain, Kelly clamp, Babinski sign, McBurney point.",
        "BP 120/80, HR 82, RR 16, T 98.6 F, SpO2 97%.",
        "WBC 12.3, Na 138, K 4.1, platelets 250,000.",
        "Take 1/2 tablet 2-3 times daily for 10-14 days; 5/500 mg prn.",
        "I50.9, E11.65, CPT 99213, T2N0M0, grade 2/3.",
        "A 54-year-old man, mother died at 89, 18 months old sister.",
        "Age 90 or older; patients aged 90 and above.",
        "Since 2011; in 2009; 5/5 strength; 2/6 murmur; vision 20/40; nodes 2/15.",
        "She may march on; sepsis; decreased; marked edema; a sample of 1200 cells.",
        "[**2151-7-16**] [**Last Name (LF) 12**] ___ [NAME] [DATE]",
        "HISTORY OF PRESENT ILLNESS: The patient is stable. Chest CT: Normal.",
        "seen by Cardiology, followed by Infectious Disease, per Radiology",
    ] {
        let findings = scanner.scan(text);
        let shown: Vec<&str> = findings.iter().map(|f| &text[f.start..f.end]).collect();
        assert!(shown.is_empty(), "{text}: {shown:?}");
    }
}

#[test]
fn hostile_text_is_scanned_in_linear_time() {
    let scanner = Scanner::new();
    for piece in [
        "1",
        "1/",
        "1-2-",
        "a@",
        "A",
        "Dr. ",
        "MRN: ",
        "é",
        "[**",
        "Smith, ",
        "::1",
        "March ",
        "\u{1F600}3/3/2019",
    ] {
        let text = piece.repeat((1 << 20) / piece.len());
        let findings = scanner.scan(&text);
        for finding in findings {
            assert!(text.get(finding.start..finding.end).is_some());
        }
    }
    assert!(scanner.scan(&"7".repeat(10_000_000)).is_empty());
    assert!(scanner.scan("").is_empty());
}

/// MB/s of one core: `cargo test --release -p medtune-datasets phi::speed --
/// --ignored --nocapture`.
#[test]
#[ignore = "a measurement, for release builds"]
fn speed() {
    let scanner = Scanner::new();
    let notes = notes();
    let dense: String = notes.iter().map(|note| note.text.as_str()).collect();
    let plain: String = notes
        .iter()
        .map(|note| redact(&note.text, &scanner.scan(&note.text)))
        .collect();
    let mut texts = vec![("with known identifiers", dense), ("redacted", plain)];
    if let Some(root) = std::env::var_os("MEDTUNE_DATA") {
        let path = std::path::Path::new(&root).join("mtsamples/mtsamples.csv");
        let text = std::fs::read(path).unwrap();
        texts.push(("of mtsamples", String::from_utf8_lossy(&text).into_owned()));
    }
    for (name, text) in texts {
        let note_bytes = 2000;
        let pieces: Vec<&str> = split_lines(&text, note_bytes);
        let (clock, start) = (Instant::now(), cpu_secs());
        let mut bytes = 0;
        while clock.elapsed().as_secs_f64() < 2.0 {
            for piece in &pieces {
                std::hint::black_box(scanner.scan(piece));
                bytes += piece.len();
            }
        }
        let rate = bytes as f64 / 1e6 / (cpu_secs() - start);
        println!("notes {name}: {rate:.1} MB a CPU-second");
    }
}

/// Time that this thread has run, which other programs do not lengthen.
fn cpu_secs() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    let nanoseconds: f64 = stat.split(' ').next().unwrap().parse().unwrap();
    nanoseconds / 1e9
}

fn split_lines(text: &str, bytes: usize) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(at) = rest
        .get(bytes..)
        .and(rest.bytes().skip(bytes).position(|b| b == b'\n'))
    {
        let (piece, tail) = rest.split_at(bytes + at);
        pieces.push(piece);
        rest = tail;
    }
    pieces.push(rest);
    pieces
}

/// What is flagged in published text, where most findings are false or public:
/// set MEDTUNE_DATA, and MEDTUNE_PHI_SHOW to see them.
#[test]
fn public_text_is_mostly_left_alone() {
    let Some(root) = std::env::var_os("MEDTUNE_DATA") else {
        println!("skipped: MEDTUNE_DATA is not set");
        return;
    };
    let root = std::path::PathBuf::from(root);
    let scanner = Scanner::new();
    for (source, extension) in [
        ("mtsamples", "csv"),
        ("indiana_cxr", "csv"),
        ("medquad", "xml"),
    ] {
        let (mut bytes, mut found) = (0, BTreeMap::<PhiClass, u64>::new());
        for path in files(&root.join(source), extension) {
            let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
            bytes += text.len();
            for line in text.lines().filter(|line| !line.contains("<Document ")) {
                let findings = scanner.scan(line);
                for (class, count) in counts(&findings) {
                    *found.entry(class).or_default() += count;
                }
                if std::env::var("MEDTUNE_PHI_SHOW").is_ok() {
                    for f in findings {
                        println!("{source} {:?}: {:?}", f.class, around(line, f.start, f.end));
                    }
                }
            }
        }
        let shown: Vec<String> = found
            .iter()
            .map(|(class, count)| format!("{} {count}", class.name()))
            .collect();
        println!("{source} ({} kB): {}", bytes / 1000, shown.join(", "));
        assert!(bytes > 0, "{source} is there");
    }
}

/// The files with an extension, in the order of their names.
fn files(folder: &std::path::Path, extension: &str) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut entries: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
    found
}
