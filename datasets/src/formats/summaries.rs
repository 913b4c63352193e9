//! Summarisation: PubMed articles with their abstracts (Cohan et al. 2018) and
//! reviews of several studies (MSLR: MS2 and Cochrane).

use std::path::Path;

use serde_json::Value;

use super::Format;
use super::fields::{each, text, texts, wrong_field};
use crate::Result;
use crate::files::SourceFile;
use crate::recipe::SourceSection;
use crate::rows::{Row, Rows, array_or_lines, records};

pub(super) const PUBMED: Format = Format {
    name: "pubmed-summarization",
    about: "src (the article), tgt (its abstract), a space between sentences; the authors' JSONL (article_text, abstract_text) or Hugging Face's article and abstract",
    splits: &[],
    read: read_pubmed,
    sample: None,
};

pub(super) const MSLR: Format = Format {
    name: "mslr",
    about: "docid, preface, target, references (list), abstracts (each reference's title and abstract); JSONL",
    splits: &[],
    read: read_mslr,
    sample: None,
};

fn read_pubmed(file: &SourceFile, source: &SourceSection, _: &Path) -> Result<Rows> {
    let rows = records(file, source, &["article", "abstract"])?;
    Ok(each(rows, file, source_and_target))
}

fn source_and_target(mut row: Row, file: &str) -> Result<Row> {
    let (src, tgt) = if row.fields.contains_key("article_text") {
        let article = texts(&row, file, "article_text")?;
        let sentences = texts(&row, file, "abstract_text")?;
        let bare = |s: &&str| s.replace("<S>", "").replace("</S>", "");
        let sentences: Vec<String> = sentences.iter().map(bare).collect();
        (
            one_line(article),
            one_line(sentences.iter().map(String::as_str)),
        )
    } else {
        let article = text(&row, file, "article")?;
        (
            one_line(article.split('\n')),
            one_line(text(&row, file, "abstract")?.split('\n')),
        )
    };
    row.fields.insert("src".into(), src.into());
    row.fields.insert("tgt".into(), tgt.into());
    Ok(row)
}

/// Sentences with a space between them: Hugging Face's copy has line ends there,
/// the authors' has a list.
fn one_line<'t>(sentences: impl IntoIterator<Item = &'t str>) -> String {
    let sentences = sentences.into_iter().map(str::trim);
    let sentences: Vec<&str> = sentences.filter(|s| !s.is_empty()).collect();
    sentences.join(" ")
}

fn read_mslr(file: &SourceFile, _: &SourceSection, _: &Path) -> Result<Rows> {
    Ok(each(array_or_lines(file)?, file, with_abstracts))
}

fn with_abstracts(mut row: Row, file: &str) -> Result<Row> {
    for field in ["docid", "preface", "target"] {
        text(&row, file, field)?;
    }
    let references = row.fields.get("references").and_then(Value::as_array);
    let abstracts: Option<Vec<&str>> = references.and_then(|references| {
        let abstracts = references.iter().map(|r| r.get("title_abstract")?.as_str());
        abstracts.collect()
    });
    let Some(abstracts) = abstracts else {
        let wanted = "a list of records with a title_abstract";
        return Err(wrong_field(&row, file, "references", wanted));
    };
    let abstracts: Value = abstracts.into_iter().collect();
    row.fields.insert("abstracts".into(), abstracts);
    Ok(row)
}
