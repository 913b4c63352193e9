//! PubMed and MEDLINE XML (`<MedlineCitationSet>`, `<PubmedArticleSet>`; the
//! NLM's yearly baseline files), read one citation at a time.

use serde_json::Value;

use super::Format;
use crate::xml::{Draft, Element, Flaw, fold, one, rows};

pub(super) const FORMAT: Format = Format {
    name: "medline",
    about: "PubMed/MEDLINE XML, a row a citation: pmid, title, abstract (labelled sections as \"LABEL: text\" lines), mesh_terms (list of descriptors), mesh_text (joined by \"; \"), keywords (list), journal, year (number or null), language",
    splits: &[],
    read: |file, _, _| {
        rows(file, &["MedlineCitation"], |element| {
            one(citation(&element))
        })
    },
    sample: None,
};

fn citation(citation: &Element) -> Result<Draft, Flaw> {
    let Some(pmid) = citation.find(&["PMID"]) else {
        return Err(Flaw::new(citation.line, "", "a citation without a PMID"));
    };
    let version = pmid.attribute("Version").filter(|version| *version != "1");
    let pmid = fold(&pmid.text());
    // A file may hold several versions of a citation.
    let key = match version {
        Some(version) => format!("{pmid}.{version}"),
        None => pmid.clone(),
    };
    let mesh: Vec<String> = texts(citation, &["MeshHeadingList"], |heading| {
        heading.line_at(&["DescriptorName"])
    });
    let keywords = citation.children("KeywordList");
    let keywords: Vec<String> = keywords
        .flat_map(|list| list.children("Keyword"))
        .map(|keyword| fold(&keyword.text()))
        .collect();
    let article = |path: &[&str]| {
        let article = citation.find(&["Article"]);
        article.map_or_else(String::new, |article| article.line_at(path))
    };
    Ok(Draft::new(
        Some(key),
        [
            ("pmid", pmid.into()),
            ("title", article(&["ArticleTitle"]).into()),
            ("abstract", abstract_text(citation).into()),
            ("mesh_text", mesh.join("; ").into()),
            ("mesh_terms", mesh.into()),
            ("keywords", keywords.into()),
            ("journal", article(&["Journal", "Title"]).into()),
            ("year", year(citation)),
            ("language", article(&["Language"]).into()),
        ],
    ))
}

fn texts(of: &Element, path: &[&str], text: fn(&Element) -> String) -> Vec<String> {
    let list = of.find(path);
    let items = list.into_iter().flat_map(Element::elements);
    items.map(text).filter(|text| !text.is_empty()).collect()
}

/// The sections of the abstract, one a line, after their labels.
fn abstract_text(citation: &Element) -> String {
    let found = citation.find(&["Article", "Abstract"]);
    let sections = found
        .into_iter()
        .flat_map(|all| all.children("AbstractText"));
    let lines = sections.filter_map(|section| {
        let text = fold(&section.text());
        let label = section.attribute("Label").filter(|label| !label.is_empty());
        match label {
            _ if text.is_empty() => None,
            Some(label) => Some(format!("{label}: {text}")),
            None => Some(text),
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The year of publication; a `MedlineDate` ("2009 Nov-Dec") starts with it.
fn year(citation: &Element) -> Value {
    let date = citation.find(&["Article", "Journal", "JournalIssue", "PubDate"]);
    let text = date.map_or_else(String::new, |date| match date.line_at(&["Year"]) {
        year if year.is_empty() => date.line_at(&["MedlineDate"]),
        year => year,
    });
    text.get(..4)
        .and_then(|year| year.parse::<u64>().ok())
        .map_or(Value::Null, Value::from)
}
