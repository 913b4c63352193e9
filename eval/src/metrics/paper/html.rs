//! As much of BeautifulSoup's `html.parser` reading as answers call for: top-level texts and
//! elements, unclosed elements open to the end, end tags of nothing ignored.

/// A child of the document.
#[derive(Debug, PartialEq)]
pub(super) enum Node {
    /// Text outside elements, or a comment.
    Text(String),
    /// An element with all the text in it, at any depth.
    Element {
        /// The first of its classes.
        class: Option<String>,
        text: String,
    },
}

/// Elements that have no content and no end tag.
const VOID: &[&str] = &[
    "br", "hr", "img", "input", "meta", "link", "wbr", "area", "base", "col",
];

/// The document's children in order.
pub(super) fn top_level(html: &str) -> Vec<Node> {
    let mut nodes: Vec<Node> = Vec::new();
    let mut open: Vec<String> = Vec::new();
    let mut rest = html;
    while !rest.is_empty() {
        let Some((token, length)) = next(rest) else {
            break;
        };
        rest = &rest[length..];
        match token {
            Token::Text(text) => match nodes.last_mut() {
                Some(Node::Element { text: inside, .. }) if !open.is_empty() => {
                    inside.push_str(&text)
                }
                Some(Node::Text(before)) => before.push_str(&text),
                _ => nodes.push(Node::Text(text)),
            },
            // A comment is a child of its own; inside an element it is no text of it.
            Token::Comment(text) if open.is_empty() => nodes.push(Node::Text(format!(" {text} "))),
            Token::Comment(_) => (),
            Token::Start { name, class } => {
                if open.is_empty() {
                    nodes.push(Node::Element {
                        class,
                        text: String::new(),
                    });
                }
                if !VOID.contains(&name.as_str()) {
                    open.push(name);
                }
            }
            Token::End(name) => {
                if let Some(at) = open.iter().rposition(|known| *known == name) {
                    open.truncate(at);
                } else if let (true, Some(Node::Text(text))) = (open.is_empty(), nodes.last_mut()) {
                    // It closes nothing, but ends the text's word.
                    text.push(' ');
                }
            }
        }
    }
    nodes
}

enum Token {
    Text(String),
    Comment(String),
    Start { name: String, class: Option<String> },
    End(String),
}

/// What the text begins with, and its length in bytes.
fn next(html: &str) -> Option<(Token, usize)> {
    let Some(tag) = html.strip_prefix('<') else {
        let length = html.find('<').unwrap_or(html.len());
        return Some((Token::Text(unescaped(&html[..length])), length));
    };
    if let Some(comment) = tag.strip_prefix("!--")
        && let Some(end) = comment.find("-->")
    {
        return Some((Token::Comment(comment[..end].to_owned()), end + 7));
    }
    let name_at = usize::from(tag.starts_with('/'));
    let named = tag[name_at..].starts_with(|c: char| c.is_ascii_alphabetic());
    match end_of_tag(tag).filter(|_| named) {
        Some(end) => {
            let inside = &tag[name_at..end];
            let length = inside
                .find(|c: char| c.is_whitespace() || c == '/')
                .unwrap_or(inside.len());
            let name = inside[..length].to_ascii_lowercase();
            let token = match name_at {
                1 => Token::End(name),
                _ => Token::Start {
                    name,
                    class: class_of(&inside[length..]),
                },
            };
            Some((token, end + 2))
        }
        // A lone `<` is text.
        None => Some((Token::Text("<".to_owned()), 1)),
    }
}

/// Where the tag's `>` is, outside quotes.
fn end_of_tag(tag: &str) -> Option<usize> {
    let mut quote = None;
    for (at, c) in tag.char_indices() {
        match (quote, c) {
            (None, '>') => return Some(at),
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            _ => (),
        }
    }
    None
}

/// The first class in the attributes.
fn class_of(attributes: &str) -> Option<String> {
    let mut rest = attributes.trim_start_matches(|c: char| c.is_whitespace() || c == '/');
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| c.is_whitespace() || c == '=')
            .unwrap_or(rest.len());
        let name = &rest[..end];
        rest = rest[end..].trim_start();
        let mut value = "";
        if let Some(after) = rest.strip_prefix('=') {
            (value, rest) = attribute_value(after.trim_start());
        }
        if name.eq_ignore_ascii_case("class") {
            return value.split_whitespace().next().map(unescaped);
        }
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == '/');
    }
    None
}

/// A value, quoted or not, and what follows it.
fn attribute_value(text: &str) -> (&str, &str) {
    for quote in ['"', '\''] {
        if let Some(inside) = text.strip_prefix(quote) {
            return inside.split_once(quote).unwrap_or((inside, ""));
        }
    }
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    text.split_at(end)
}

/// The text with character references replaced: the five of XML, the no-break space, and numbers.
fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = rest.find(';').filter(|end| *end <= 10);
        match end.and_then(|end| character(&rest[1..end])) {
            Some(c) => {
                out.push(c);
                rest = &rest[end.map_or(0, |end| end + 1)..];
            }
            None => {
                out.push('&');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
    out
}

fn character(name: &str) -> Option<char> {
    match name {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        "nbsp" => Some('\u{a0}'),
        _ => {
            let number = name.strip_prefix('#')?;
            let code = match number.strip_prefix(['x', 'X']) {
                Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                None => number.parse().ok()?,
            };
            char::from_u32(code)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn element(class: Option<&str>, text: &str) -> Node {
        Node::Element {
            class: class.map(String::from),
            text: text.into(),
        }
    }

    #[test]
    fn reads_what_models_write() {
        let html = "a &lt; b<SPAN title='>' CLASS=\"test x\">c <b>d</b></span> </i> e < 5 <span>f";
        assert_eq!(
            top_level(html),
            [
                Node::Text("a < b".into()),
                element(Some("test"), "c d"),
                Node::Text("   e < 5 ".into()),
                element(None, "f"),
            ]
        );
        assert_eq!(top_level("<"), [Node::Text("<".into())]);
        assert_eq!(top_level("&#233;&bogus;"), [Node::Text("é&bogus;".into())]);
        assert_eq!(
            top_level("<span class=drug>x<br>y"),
            [element(Some("drug"), "xy")]
        );
    }
}
