//! Pages that need nothing but themselves: no network, no script, no font. Every text on them is
//! escaped; they are readable on a phone, in the dark and on paper.

pub mod chart;
mod classes;
mod evaluation;
mod items;

use std::fmt::Write;

pub use evaluation::{evaluation_sections, headline};

const STYLE: &str = include_str!("style.css");

/// A page.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// What it is about.
    pub title: String,
    /// What stands under the title, as HTML.
    pub lead: String,
    /// Its parts, in order.
    pub sections: Vec<Section>,
}

/// A part of a page.
#[derive(Debug, Clone)]
pub struct Section {
    /// Its anchor, unique on the page.
    pub id: &'static str,
    /// Its heading.
    pub title: &'static str,
    /// What it says, as HTML.
    pub body: String,
}

impl Section {
    /// A part that says that there is nothing to say, and why.
    pub fn empty(id: &'static str, title: &'static str, why: &str) -> Section {
        let body = format!("<p class=\"empty\">{}</p>", escape(why));
        Section { id, title, body }
    }
}

impl Page {
    /// The page's bytes.
    pub fn html(&self) -> String {
        let title = escape(&self.title);
        let mut html = format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n\
             <link rel=\"icon\" href=\"data:,\">\n<title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
             <header>\n<h1>{title}</h1>\n{}\n</header>\n<nav aria-label=\"Parts\">",
            self.lead
        );
        for section in &self.sections {
            let title = escape(section.title);
            let _ = write!(html, "<a href=\"#{}\">{title}</a>", section.id);
        }
        html.push_str("</nav>\n<main>\n");
        for section in &self.sections {
            let (id, title) = (section.id, escape(section.title));
            let _ = write!(
                html,
                "<section id=\"{id}\" aria-labelledby=\"{id}-title\">\n<h2 id=\"{id}-title\">{title}</h2>\n{}\n</section>\n",
                section.body
            );
        }
        html.push_str("</main>\n</body>\n</html>\n");
        html
    }
}

/// Text as HTML, for content and for attributes in double quotes. What a browser would drop or
/// obey without showing it (control characters, changes of writing direction) is shown as a box.
pub fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            '\n' | '\t' => safe.push(c),
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => safe.push('\u{fffd}'),
            c if c.is_control() => safe.push('\u{fffd}'),
            c => safe.push(c),
        }
    }
    safe
}

/// `1 234 567`, with narrow gaps.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// A list of names and values, both as HTML.
pub fn facts<'a>(rows: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let mut html = "<dl class=\"facts\">".to_owned();
    for (name, value) in rows {
        let _ = write!(html, "<div><dt>{name}</dt><dd>{value}</dd></div>");
    }
    html.push_str("</dl>");
    html
}

/// Large figures in a row: (value, what it is), both as HTML.
pub fn tiles<'a>(tiles: impl IntoIterator<Item = (String, &'a str)>) -> String {
    let mut html = "<div class=\"tiles\">".to_owned();
    for (value, name) in tiles {
        let _ = write!(html, "<div><b>{value}</b><span>{name}</span></div>");
    }
    html.push_str("</div>");
    html
}

/// A table: its head, and its rows as HTML cells. Columns whose head begins with `#` hold numbers.
/// On a phone each row becomes a card.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut html = "<div class=\"wide\"><table class=\"cards\"><thead><tr>".to_owned();
    let name = |column: usize| {
        head.get(column)
            .map_or("", |head| head.trim_start_matches('#'))
    };
    let class = |column: usize| match head.get(column) {
        Some(head) if head.starts_with('#') => " class=\"n\"",
        _ => "",
    };
    for column in 0..head.len() {
        let _ = write!(html, "<th{}>{}</th>", class(column), escape(name(column)));
    }
    html.push_str("</tr></thead><tbody>");
    for row in rows {
        html.push_str("<tr>");
        for (column, cell) in row.iter().enumerate() {
            let label = escape(name(column));
            let _ = write!(
                html,
                "<td{} data-label=\"{label}\">{cell}</td>",
                class(column)
            );
        }
        html.push_str("</tr>");
    }
    html.push_str("</tbody></table></div>");
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_text_is_markup() {
        let hostile = "<script>alert(\"1\")</script> & 'x' \u{1b}[31m \u{202e}txt";
        assert_eq!(
            escape(hostile),
            "&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt; &amp; &#39;x&#39; \u{fffd}[31m \u{fffd}txt"
        );
    }

    #[test]
    fn a_page_holds_its_sections_and_their_links() {
        let page = Page {
            title: "a < b".into(),
            lead: String::new(),
            sections: vec![Section::empty("data", "Data", "not run & so on")],
        };
        let html = page.html();
        assert!(html.contains("<title>a &lt; b</title>"));
        assert!(html.contains("<a href=\"#data\">Data</a>"));
        assert!(html.contains("not run &amp; so on"));
    }
}
