//! Natural language inference: MedNLI (Romanov & Shivade 2018), which has SNLI's
//! fields, and BioNLI (Bastan et al. 2022).

use std::path::Path;

use super::Format;
use super::fields::{each, shown_word, site, text, wrong_value};
use crate::files::SourceFile;
use crate::recipe::SourceSection;
use crate::rows::{Row, Rows, records};
use crate::{Error, Result};

pub(super) const MEDNLI: Format = Format {
    name: "mednli",
    about: "sentence1, sentence2, gold_label (entailment, contradiction or neutral), pairID; JSONL. A record labelled `-` is a bad record: its annotators did not agree",
    splits: &[],
    read: read_mednli,
    sample: None,
};

pub(super) const BIONLI: Format = Format {
    name: "bionli",
    about: "premise, hypothesis, label (entailment where label_cat is `pos`, otherwise contradiction), label_cat, pmid; CSV",
    splits: &[],
    read: read_bionli,
    sample: None,
};

const LABELS: [&str; 3] = ["entailment", "contradiction", "neutral"];

fn read_mednli(file: &SourceFile, source: &SourceSection, _: &Path) -> Result<Rows> {
    let rows = records(file, source, &["sentence1", "sentence2", "gold_label"])?;
    Ok(each(rows, file, labelled))
}

fn labelled(row: Row, file: &str) -> Result<Row> {
    for field in ["sentence1", "sentence2"] {
        text(&row, file, field)?;
    }
    match text(&row, file, "gold_label")? {
        "-" => Err(Error::NoGoldLabel {
            at: site(&row, file),
        }),
        known if LABELS.contains(&known) => Ok(row),
        other => {
            let (wanted, found) = (LABELS.join(", "), shown_word(other));
            Err(wrong_value(&row, file, "gold_label", wanted, found))
        }
    }
}

fn read_bionli(file: &SourceFile, source: &SourceSection, _: &Path) -> Result<Rows> {
    let rows = records(file, source, &["supp_set", "conclusion", "label_cat"])?;
    Ok(each(rows, file, premise_and_hypothesis))
}

/// Every category but `pos` is one of the ways in which the authors made a
/// conclusion wrong (swapped entities, numbers, relations; generated text), so
/// it contradicts its premise.
fn premise_and_hypothesis(mut row: Row, file: &str) -> Result<Row> {
    let label = match text(&row, file, "label_cat")?.trim() {
        "" => {
            return Err(wrong_value(
                &row,
                file,
                "label_cat",
                "a category",
                "nothing",
            ));
        }
        "pos" => "entailment",
        _ => "contradiction",
    };
    let premise = text(&row, file, "supp_set")?.to_string();
    let hypothesis = text(&row, file, "conclusion")?.to_string();
    row.fields.insert("premise".into(), premise.into());
    row.fields.insert("hypothesis".into(), hypothesis.into());
    row.fields.insert("label".into(), label.into());
    Ok(row)
}
