//! An element as a tree, and the text in it.

/// An element with everything in it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Element {
    pub name: String,
    /// The line of its start tag's end, 1-based.
    pub line: u64,
    pub(super) attributes: Vec<(String, String)>,
    pub nodes: Vec<Node>,
}

/// What an element contains.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Node {
    Text(String),
    Element(Element),
}

impl Element {
    /// The value of an attribute.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        let found = self.attributes.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The elements directly in it.
    pub fn elements(&self) -> impl Iterator<Item = &Element> {
        self.nodes.iter().filter_map(|node| match node {
            Node::Element(element) => Some(element),
            Node::Text(_) => None,
        })
    }

    /// The elements called `name` directly in it.
    pub fn children<'e>(&'e self, name: &'e str) -> impl Iterator<Item = &'e Element> {
        self.elements().filter(move |element| element.name == name)
    }

    /// As [`Element::children`], by value; the rest is dropped.
    pub fn into_children(self, name: &str) -> impl Iterator<Item = Element> + use<'_> {
        self.nodes.into_iter().filter_map(move |node| match node {
            Node::Element(element) if element.name == name => Some(element),
            _ => None,
        })
    }

    /// The first element down the path of names.
    pub fn find(&self, path: &[&str]) -> Option<&Element> {
        path.iter().try_fold(self, |element, name| {
            element.elements().find(|child| child.name == *name)
        })
    }

    /// Takes the first element down the path of names out of the tree.
    pub fn take(&mut self, path: &[&str]) -> Option<Element> {
        let mut element = self;
        for name in path {
            let found = element.nodes.iter_mut().find_map(|node| match node {
                Node::Element(child) if child.name == *name => Some(child),
                _ => None,
            });
            element = found?;
        }
        Some(std::mem::take(element))
    }

    /// All elements called `name` in it, at any depth, in the document's order;
    /// those inside a found one are not searched for.
    pub fn descendants(&self, name: &str) -> Vec<&Element> {
        let mut found = Vec::new();
        for element in self.elements() {
            if element.name == name {
                found.push(element);
            } else {
                found.extend(element.descendants(name));
            }
        }
        found
    }

    /// All text in it, at any depth, as it is written.
    pub fn text(&self) -> String {
        let mut text = String::new();
        self.write_text(&mut text);
        text
    }

    fn write_text(&self, into: &mut String) {
        for node in &self.nodes {
            match node {
                Node::Text(text) => into.push_str(text),
                Node::Element(element) => element.write_text(into),
            }
        }
    }

    /// The text of the first element down the path, [`tidy`]; empty if there
    /// is none.
    pub fn tidy_at(&self, path: &[&str]) -> String {
        self.find(path)
            .map_or_else(String::new, |element| tidy(&element.text()))
    }

    /// The text of the first element down the path on one line, [`fold`]ed;
    /// empty if there is none.
    pub fn line_at(&self, path: &[&str]) -> String {
        self.find(path)
            .map_or_else(String::new, |element| fold(&element.text()))
    }
}

/// Lines without space at their ends, no more than one blank line in a row, and
/// nothing around the whole: the text without the indentation of its file.
pub(crate) fn tidy(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut blank = false;
    for line in text.lines().map(str::trim) {
        if line.is_empty() {
            blank = true;
            continue;
        }
        if !out.is_empty() {
            out.push_str(if blank { "\n\n" } else { "\n" });
        }
        out.push_str(line);
        blank = false;
    }
    out
}

/// Each run of white space as one space, none at the ends.
pub(crate) fn fold(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
    }
    out
}

/// Resolves the references of `raw` that XML and HTML 5 know; any other `&`
/// stays as it is.
pub(crate) fn resolve(raw: &str) -> String {
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(start) = rest.find('&') {
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        // The longest known name has 33 characters with its `;`.
        let end = rest.bytes().take(34).position(|byte| byte == b';');
        let length = end.filter(|&end| push_reference(&rest[1..end], &mut out));
        match length {
            Some(end) => rest = &rest[end + 1..],
            None => {
                out.push('&');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
    out
}

/// Appends what `&name;` stands for, if that is known.
fn push_reference(name: &str, out: &mut String) -> bool {
    if let Some(number) = name.strip_prefix('#') {
        let code = match number.strip_prefix(['x', 'X']) {
            Some(hex) => u32::from_str_radix(hex, 16),
            None => number.parse(),
        };
        // A null character is none in XML, whichever way it is written.
        let character = code.ok().filter(|&code| code != 0).and_then(char::from_u32);
        out.extend(character);
        return character.is_some();
    }
    let known = crate::clean::named_entity(name);
    out.extend(known);
    known.is_some()
}
