//! Full articles in JATS, the journal archive tag suite of PubMed Central
//! (`.nxml`). Figures, tables and formulas are left out: a model reads text.

use serde_json::{Value, json};

use super::Format;
use crate::xml::{Draft, Element, Flaw, Node, fold, one, rows};

pub(super) const FORMAT: Format = Format {
    name: "jats",
    about: "JATS XML, a row an article: pmid, pmcid, doi, title, abstract (titled sections as \"Title: text\" lines), body (paragraphs and section titles, a blank line between), sections (list of {title, text}), keywords (list), journal",
    splits: &[],
    read: |file, _, _| rows(file, &["article"], |element| one(article(&element))),
    sample: None,
};

fn article(article: &Element) -> Result<Draft, Flaw> {
    let Some(meta) = article.find(&["front", "article-meta"]) else {
        return Err(Flaw::new(
            article.line,
            "",
            "an article without front/article-meta",
        ));
    };
    let id = |kinds: &[&str]| {
        let ids = meta.children("article-id");
        let mut of_kind = ids.filter(|id| {
            let kind = id.attribute("pub-id-type");
            kind.is_some_and(|kind| kinds.contains(&kind))
        });
        of_kind
            .next()
            .map(|id| fold(&id.text()))
            .unwrap_or_default()
    };
    let (pmid, doi) = (id(&["pmid"]), id(&["doi"]));
    let pmcid = match id(&["pmc", "pmcid"]) {
        number if number.starts_with(|c: char| c.is_ascii_digit()) => format!("PMC{number}"),
        other => other,
    };
    let key = [&pmcid, &pmid, &doi].into_iter().find(|id| !id.is_empty());
    let sections = body_sections(article.find(&["body"]));
    let body: Vec<&str> = sections
        .iter()
        .flat_map(|(title, text)| [title.as_str(), text.as_str()])
        .filter(|part| !part.is_empty())
        .collect();
    let keywords = meta
        .children("kwd-group")
        .flat_map(|group| group.descendants("kwd"));
    let keywords: Vec<String> = keywords.map(|keyword| fold(&keyword.text())).collect();
    let journal = article.find(&["front", "journal-meta"]);
    let journal = journal.map_or_else(Vec::new, |meta| meta.descendants("journal-title"));
    Ok(Draft::new(
        key.cloned(),
        [
            (
                "title",
                meta.line_at(&["title-group", "article-title"]).into(),
            ),
            ("abstract", abstract_text(meta).into()),
            ("body", body.join("\n\n").into()),
            ("sections", sections_value(&sections)),
            ("keywords", keywords.into()),
            (
                "journal",
                journal
                    .first()
                    .map_or_else(String::new, |j| fold(&j.text()))
                    .into(),
            ),
            ("pmid", pmid.into()),
            ("pmcid", pmcid.into()),
            ("doi", doi.into()),
        ],
    ))
}

/// The article's abstract; the ones with a type (graphical, for readers
/// outside the field) are others.
fn abstract_text(meta: &Element) -> String {
    let mut abstracts = meta.children("abstract");
    let Some(found) = abstracts.find(|text| text.attribute("abstract-type").is_none()) else {
        return String::new();
    };
    let lines = body_sections(Some(found)).into_iter().map(|(title, text)| {
        let text = text.replace("\n\n", " ");
        match title.trim_end_matches([':', '.']) {
            "" => text,
            title => format!("{title}: {text}"),
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn sections_value(sections: &[(String, String)]) -> Value {
    let section = |(title, text): &(String, String)| json!({"title": title, "text": text});
    sections.iter().map(section).collect()
}

/// The titles and texts of the sections directly in `body`; what is in none,
/// under an empty title. Inner sections' titles are paragraphs.
fn body_sections(body: Option<&Element>) -> Vec<(String, String)> {
    let mut sections = Vec::new();
    let mut loose = Blocks::default();
    for element in body.into_iter().flat_map(Element::elements) {
        if element.name == "sec" {
            loose.end_section(String::new(), &mut sections);
            let mut blocks = Blocks::default();
            for part in element.elements().filter(|part| part.name != "title") {
                blocks.add(part);
            }
            blocks.end_section(element.line_at(&["title"]), &mut sections);
        // The heading "Abstract" of an abstract.
        } else if element.name != "title" {
            loose.add(element);
        }
    }
    loose.end_section(String::new(), &mut sections);
    sections
}

/// Paragraphs gathered from elements.
#[derive(Default)]
struct Blocks {
    done: Vec<String>,
    open: String,
}

/// Elements that start a paragraph and end the one before.
const BLOCKS: &[&str] = &[
    "p",
    "title",
    "sec",
    "list",
    "list-item",
    "disp-quote",
    "def-list",
    "def-item",
    "boxed-text",
    "statement",
    "verse-group",
    "speech",
];

/// Elements that are no running text.
const LEFT_OUT: &[&str] = &[
    "fig",
    "fig-group",
    "table-wrap",
    "table-wrap-group",
    "table",
    "disp-formula",
    "disp-formula-group",
    "tex-math",
    "mml:math",
    "graphic",
    "inline-graphic",
    "media",
    "supplementary-material",
    "label",
    "fn",
    "fn-group",
    "ref-list",
    "object-id",
];

impl Blocks {
    fn add(&mut self, element: &Element) {
        if LEFT_OUT.contains(&element.name.as_str()) {
            return;
        }
        let block = BLOCKS.contains(&element.name.as_str());
        if block {
            self.end_block();
        }
        for node in &element.nodes {
            match node {
                Node::Text(text) => self.open.push_str(text),
                Node::Element(element) => self.add(element),
            }
        }
        if block {
            self.end_block();
        }
    }

    fn end_block(&mut self) {
        let text = fold(&std::mem::take(&mut self.open));
        if !text.is_empty() {
            self.done.push(text);
        }
    }

    fn end_section(&mut self, title: String, sections: &mut Vec<(String, String)>) {
        self.end_block();
        let text = std::mem::take(&mut self.done).join("\n\n");
        if !(text.is_empty() && title.is_empty()) {
            sections.push((title, text));
        }
    }
}
