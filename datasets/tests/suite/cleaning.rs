//! Duplicates and contamination on sets whose truth is known, and how long it
//! takes. The texts are made up, from sentences with slots, so that rows share
//! many words and phrases without being duplicates.
//!
//! Measure with
//! `cargo test --release -p medtune-datasets --test suite measure -- --ignored --nocapture --test-threads 1`;
//! the rows are made here, or read from MEDTUNE_DUPLICATES, a JSONL file with
//! `instruction`, `output`, and for copies `dup` (`exact`, `near`) and `dup_of` (the
//! line, from 0).

use std::collections::{BTreeMap, BTreeSet};

use datasets::clean::{
    Contamination, Duplicate, DuplicateKind, Normaliser, Probe, Sketch, Sketcher, duplicates,
};
use datasets::random::Draws;
use datasets::recipe::Marks;

const SENTENCES: [&str; 12] = [
    "In a # year old $ the combination of $ and $ makes $ likely, especially with $.",
    "The first investigations are $ and $; a normal $ does not exclude $ when symptoms persist.",
    "$ is usually started at # mg # times daily and the dose is reviewed after # weeks.",
    "Side effects to mention include $, $ and, less often, $.",
    "If $ or $ develops, $ should be paused and the $ repeated within # days.",
    "Lifestyle advice matters as well: address $, keep active, and record symptoms such as $.",
    "Differential diagnoses are $ and $, which can be separated by $.",
    "The target is a fall in symptoms by about # percent within # weeks.",
    "Refer to a specialist when $ worsens, when $ appears, or when two drug classes have failed.",
    "In $, roughly # of every 100 patients respond to $ alone and the others need $ added.",
    "Older adults and those with reduced kidney function need a lower dose than # mg of $.",
    "Document the discussion, give written information, and arrange review in # days.",
];

const TERMS: [&str; 40] = [
    "diabetes",
    "hypertension",
    "pneumonia",
    "anaemia",
    "migraine",
    "asthma",
    "fibrillation",
    "gout",
    "colitis",
    "thrombosis",
    "epilepsy",
    "psoriasis",
    "pancreatitis",
    "sepsis",
    "glaucoma",
    "metformin",
    "lisinopril",
    "amoxicillin",
    "budesonide",
    "apixaban",
    "methotrexate",
    "colchicine",
    "fatigue",
    "chest pain",
    "weight loss",
    "night sweats",
    "blurred vision",
    "joint stiffness",
    "headache",
    "nausea",
    "fever",
    "cough",
    "ankle swelling",
    "full blood count",
    "chest radiograph",
    "liver enzymes",
    "ferritin",
    "spirometry",
    "lumbar puncture",
    "biopsy",
];

/// Writes made-up text, the same for the same name.
struct Writer {
    draws: Draws,
    next: u64,
}

impl Writer {
    fn new(name: &str) -> Self {
        Self {
            draws: Draws::new(5, name),
            next: 0,
        }
    }

    fn below(&mut self, limit: usize) -> usize {
        self.next += 1;
        (self.draws.at(self.next) % limit as u64) as usize
    }

    fn sentence(&mut self) -> String {
        let mut text = String::new();
        for part in SENTENCES[self.below(SENTENCES.len())].split_inclusive(['$', '#']) {
            let literal = part.trim_end_matches(['$', '#']);
            text.push_str(literal);
            match &part[literal.len()..] {
                "$" => text.push_str(TERMS[self.below(TERMS.len())]),
                "#" => text.push_str(&self.below(200).to_string()),
                _ => {}
            }
        }
        text
    }

    /// The words of other texts, in an order of its own.
    fn shuffled_text(&mut self) -> String {
        let sentences = 1 + self.below(4);
        let text = self.text(sentences);
        let words: Vec<&str> = text.split(' ').collect();
        let words: Vec<&str> = words
            .iter()
            .map(|_| words[self.below(words.len())])
            .collect();
        words.join(" ")
    }

    fn text(&mut self, sentences: usize) -> String {
        let sentences: Vec<String> = (0..sentences).map(|_| self.sentence()).collect();
        sentences.join(" ")
    }
}

/// What a row is; copies say of which row.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Planted {
    Clean,
    Exact,
    Near(usize),
}

struct Row {
    text: String,
    planted: Planted,
}

/// Rows with a tenth near and a fiftieth exact copies of earlier clean rows; one
/// clean row in fifty is long.
fn rows(count: usize) -> Vec<Row> {
    let mut writer = Writer::new("rows");
    let mut rows: Vec<Row> = Vec::with_capacity(count);
    let mut clean: Vec<usize> = Vec::new();
    for row in 0..count {
        let (text, planted) = match writer.below(100) {
            _ if clean.len() < 100 => (writer.text(5), Planted::Clean),
            0..2 => {
                let text = rows[clean[writer.below(clean.len())]].text.to_uppercase();
                (text.replace(". ", " .\n"), Planted::Exact)
            }
            2..12 => {
                let original = clean[writer.below(clean.len())];
                let text = rows[original].text.clone();
                let mut words: Vec<&str> = text.split(' ').collect();
                // Up to one edit in thirty words: similarities from 0.7 to 1.
                for _ in 0..1 + writer.below(1 + words.len() / 30) {
                    let at = writer.below(words.len());
                    words[at] = TERMS[writer.below(TERMS.len())];
                }
                (words.join(" "), Planted::Near(original))
            }
            _ => {
                let sentences = if row % 50 == 0 {
                    40
                } else {
                    3 + writer.below(9)
                };
                (writer.text(sentences), Planted::Clean)
            }
        };
        if planted == Planted::Clean {
            clean.push(row);
        }
        rows.push(Row { text, planted });
    }
    rows
}

/// The Jaccard index of the texts' runs of five words, without hashes.
fn jaccard(a: &str, b: &str) -> f64 {
    let shingles = |text: &str| -> BTreeSet<String> {
        let text = text.to_lowercase();
        let words: Vec<&str> = text
            .split(|c: char| !c.is_alphanumeric())
            .filter(|word| !word.is_empty())
            .collect();
        words
            .windows(5.min(words.len()).max(1))
            .map(|run| run.join(" "))
            .collect()
    };
    let (a, b) = (shingles(a), shingles(b));
    a.intersection(&b).count() as f64 / a.union(&b).count().max(1) as f64
}

/// How well the planted rows were found.
#[derive(Debug, Default, PartialEq)]
struct Score {
    exact: (usize, usize),
    /// Of near copies that are truly at least 0.8 like a row that is kept.
    near: (usize, usize),
    clean_dropped: usize,
    /// Rows dropped as near by the tenth of their true similarity to the keeper.
    dropped_at: BTreeMap<usize, usize>,
}

fn score(rows: &[Row], found: &[Option<Duplicate>]) -> Score {
    let mut score = Score::default();
    for (index, (row, found)) in rows.iter().zip(found).enumerate() {
        if let Some(found) = found {
            assert!((found.keeper as usize) < index);
            if found.kind == DuplicateKind::Near {
                let truth = jaccard(&row.text, &rows[found.keeper as usize].text);
                *score
                    .dropped_at
                    .entry((truth * 20.0) as usize * 5)
                    .or_default() += 1;
            }
        }
        let dropped = usize::from(found.is_some());
        match row.planted {
            Planted::Clean => score.clean_dropped += dropped,
            Planted::Exact => {
                score.exact.0 += dropped;
                score.exact.1 += 1;
            }
            Planted::Near(original) => {
                let similar = jaccard(&row.text, &rows[original].text) >= 0.8;
                score.near.0 += dropped * usize::from(similar);
                score.near.1 += usize::from(similar);
            }
        }
    }
    score
}

fn sketches(rows: &[Row]) -> Vec<Sketch> {
    let sketcher = Sketcher::new(5);
    rows.iter().map(|row| sketcher.sketch(&row.text)).collect()
}

#[test]
fn planted_duplicates_are_found_and_nothing_else() {
    let rows = rows(20_000);
    let found = duplicates(&sketches(&rows), true, 0.8);
    let score = score(&rows, &found);
    assert!(score.exact.1 > 300 && score.near.1 > 800, "{score:?}");
    assert_eq!(score.exact.0, score.exact.1, "{score:?}");
    assert!(
        score.near.0 as f64 >= 0.99 * score.near.1 as f64,
        "{score:?}"
    );
    assert_eq!(score.clean_dropped, 0, "{score:?}");
    assert!(
        score.dropped_at.keys().all(|&similarity| similarity >= 75),
        "{score:?}"
    );
}

/// Seconds that this thread has run.
fn cpu_secs() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let start = cpu_secs();
    let done = work();
    (done, cpu_secs() - start)
}

fn read_rows(path: &str) -> Vec<Row> {
    let read = |line: &str| {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        Row {
            text: format!(
                "{} {}",
                row["instruction"].as_str().unwrap(),
                row["output"].as_str().unwrap()
            ),
            planted: match row["dup"].as_str() {
                Some("exact") => Planted::Exact,
                Some("near") => Planted::Near(row["dup_of"].as_u64().unwrap() as usize),
                _ => Planted::Clean,
            },
        }
    };
    std::fs::read_to_string(path)
        .unwrap()
        .lines()
        .map(read)
        .collect()
}

#[test]
#[ignore = "a measurement"]
fn measure_duplicates() {
    let rows = match std::env::var("MEDTUNE_DUPLICATES") {
        Ok(path) => read_rows(&path),
        Err(_) => rows(200_000),
    };
    let bytes: usize = rows.iter().map(|row| row.text.len()).sum();
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .use_current_thread()
        .build()
        .unwrap();
    let (sketches, sketching) = timed(|| sketches(&rows));
    let (found, finding) = timed(|| pool.install(|| duplicates(&sketches, true, 0.8)));
    let memory: usize = sketches.iter().map(Sketch::memory_bytes).sum();
    println!(
        "{} rows of {} bytes: {:.0} rows a CPU-second (sketch {sketching:.2} s, compare {finding:.2} s), {} bytes a row kept",
        rows.len(),
        bytes / rows.len(),
        rows.len() as f64 / (sketching + finding),
        memory / rows.len(),
    );
    println!("{:?}", score(&rows, &found));
}

#[test]
#[ignore = "a measurement"]
fn measure_contamination_and_normalising() {
    let mut writer = Writer::new("contamination");
    let probes: Vec<Probe> = (0..50_000)
        .map(|id| Probe {
            task: format!("task {}", id % 12),
            item_id: id.to_string(),
            text: writer.shuffled_text(),
            options: (0..4)
                .map(|_| TERMS[writer.below(TERMS.len())].to_string())
                .collect(),
        })
        .collect();
    let (contamination, making) = timed(|| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(1)
            .use_current_thread()
            .build()
            .unwrap();
        pool.install(|| Contamination::new(&probes, 13))
    });
    let rows = rows(60_000);
    let megabytes = rows.iter().map(|row| row.text.len()).sum::<usize>() as f64 / 1e6;
    let (hits, scanning) = timed(|| {
        rows.iter()
            .filter(|row| !contamination.hits(&row.text).is_empty())
            .count()
    });
    println!(
        "{} probes in {making:.2} s; {megabytes:.0} MB at {:.0} MB a CPU-second, {hits} of {} rows hit",
        probes.len(),
        megabytes / scanning,
        rows.len(),
    );
    let found = probes.iter().enumerate().filter(|(index, probe)| {
        let text = format!("Question: {}\n{}", probe.text, probe.options.join("; "));
        contamination
            .hits(&text)
            .iter()
            .any(|hit| hit.probe == *index)
    });
    println!(
        "{} of {} probes found in themselves",
        found.count(),
        probes.len()
    );
    let normaliser = Normaliser::new(true, true, Marks::Surrogate);
    let (changed, normalising) = timed(|| {
        rows.iter()
            .filter(|row| !normaliser.apply(&row.text).1.is_empty())
            .count()
    });
    println!(
        "normalising: {:.0} MB a CPU-second, {changed} rows changed",
        megabytes / normalising
    );
}
