//! A recipe's values, each with the place where it was written.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::check::Found;
use super::{Origin, join};

/// Where something was written: which source, and its line and column there, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct At {
    pub source: usize,
    pub line: usize,
    pub column: usize,
}

/// The files and `--set`s that a recipe is written in.
#[derive(Debug, Default)]
pub(super) struct Sources(Vec<Source>);

#[derive(Debug)]
enum Source {
    File(PathBuf),
    Set(String),
}

impl Sources {
    pub(super) fn add_file(&mut self, path: PathBuf) -> usize {
        self.0.push(Source::File(path));
        self.0.len() - 1
    }

    pub(super) fn add_set(&mut self, text: &str) -> At {
        self.0.push(Source::Set(text.to_owned()));
        At {
            source: self.0.len() - 1,
            line: 0,
            column: 0,
        }
    }

    pub(super) fn files(&self) -> Vec<PathBuf> {
        let files = self.0.iter().filter_map(|source| match source {
            Source::File(path) => Some(path.clone()),
            Source::Set(_) => None,
        });
        files.collect()
    }

    pub(super) fn origin(&self, at: At) -> Origin {
        match &self.0[at.source] {
            Source::File(path) => Origin::File {
                path: path.clone(),
                line: at.line,
            },
            Source::Set(text) => Origin::Set(text.clone()),
        }
    }

    pub(super) fn place(&self, at: At) -> (PathBuf, usize, usize) {
        match &self.0[at.source] {
            Source::File(path) => (path.clone(), at.line, at.column),
            Source::Set(text) => (format!("--set {text}").into(), 0, 0),
        }
    }
}

/// A value and where it was written.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub at: At,
    pub kind: Kind,
}

#[derive(Debug, Clone)]
pub(super) enum Kind {
    Boolean(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    /// A TOML date or time, as written: no recipe asks for one, but one may be where something else belongs.
    Datetime(String),
    Array(Vec<Node>),
    Table(Table),
}

/// The entries of a table by name, and where each name was written.
pub(super) type Table = BTreeMap<String, Entry>;

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub key_at: At,
    pub node: Node,
}

impl Node {
    pub(super) fn child(&self, name: &str) -> Option<&Node> {
        match &self.kind {
            Kind::Table(table) => table.get(name).map(|entry| &entry.node),
            _ => None,
        }
    }

    pub(super) fn item(&self, index: usize) -> Option<&Node> {
        match &self.kind {
            Kind::Array(items) => items.get(index),
            _ => None,
        }
    }

    /// The node at a dotted key, or the nearest one above it.
    pub(super) fn find(&self, key: &str) -> Option<&Node> {
        let segments = split_key(key)?;
        let mut node = self;
        for name in &segments {
            let next = node.child(name).or_else(|| node.item(name.parse().ok()?));
            match next {
                Some(next) => node = next,
                None => break,
            }
        }
        Some(node)
    }

    pub(super) fn to_json(&self) -> Value {
        match &self.kind {
            Kind::Boolean(value) => Value::from(*value),
            Kind::Integer(value) => match u64::try_from(*value) {
                Ok(value) => Value::from(value),
                // Reading lets no integer in that is neither.
                Err(_) => Value::from(i64::try_from(*value).unwrap_or(i64::MIN)),
            },
            Kind::Float(value) => Value::from(*value),
            Kind::Text(value) | Kind::Datetime(value) => Value::from(value.as_str()),
            Kind::Array(items) => items.iter().map(Self::to_json).collect(),
            Kind::Table(table) => Value::Object(
                table
                    .iter()
                    .map(|(name, entry)| (name.clone(), entry.node.to_json()))
                    .collect(),
            ),
        }
    }

    /// What it is, with its value when that is short: for messages.
    pub(super) fn describe(&self) -> String {
        match &self.kind {
            Kind::Boolean(value) => format!("`{value}`"),
            Kind::Integer(value) => format!("the integer `{value}`"),
            Kind::Float(value) => format!("the number `{value:?}`"),
            Kind::Text(value) if value.chars().count() <= 40 => format!("the string {value:?}"),
            Kind::Text(_) => "a string".into(),
            Kind::Datetime(value) => format!("the date or time `{value}`"),
            Kind::Array(_) => "an array".into(),
            Kind::Table(_) => "a table".into(),
        }
    }
}

/// The names in a dotted key: `a.b[0]."c.d"` is a, b, 0, c.d. `None` when it is not one.
pub(super) fn split_key(key: &str) -> Option<Vec<String>> {
    let mut names = Vec::new();
    let mut rest = key;
    while !rest.is_empty() {
        if let Some(quoted) = rest.strip_prefix('"') {
            let end = quoted.find('"')?;
            names.push(quoted[..end].to_owned());
            rest = &quoted[end + 1..];
        } else if let Some(index) = rest.strip_prefix('[') {
            let end = index.find(']')?;
            index[..end].parse::<usize>().ok()?;
            names.push(index[..end].to_owned());
            rest = &index[end + 1..];
        } else {
            let end = rest.find(['.', '[', '"']).unwrap_or(rest.len());
            let name = rest[..end].trim();
            if name.is_empty() {
                return None;
            }
            names.push(name.to_owned());
            rest = &rest[end..];
        }
        rest = match rest.strip_prefix('.') {
            Some("") => return None,
            Some(rest) => rest,
            None if rest.is_empty() || rest.starts_with('[') => rest,
            None => return None,
        };
    }
    if names.is_empty() { None } else { Some(names) }
}

/// Turns byte offsets into lines and columns.
pub(super) struct Lines<'a> {
    source: usize,
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    pub(super) fn new(source: usize, text: &'a str) -> Self {
        let ends = text
            .bytes()
            .enumerate()
            .filter(|(_, byte)| *byte == b'\n')
            .map(|(i, _)| i + 1);
        Self {
            source,
            text,
            starts: std::iter::once(0).chain(ends).collect(),
        }
    }

    pub(super) fn at(&self, offset: usize) -> At {
        let mut offset = offset.min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        let line = self.starts.partition_point(|start| *start <= offset);
        // A column is counted, not measured; a megabyte on one line is not worth counting for every value in it.
        let before = &self.text[self.starts[line - 1]..offset];
        let column = 1 + if before.len() > 4096 {
            before.len()
        } else {
            before.chars().count()
        };
        At {
            source: self.source,
            line,
            column,
        }
    }
}

/// Reads TOML. All syntax errors are found (one a line: the others on it follow from the first).
pub(super) fn parse(source: usize, text: &str) -> Result<Node, Vec<Found>> {
    let lines = Lines::new(source, text);
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut found: Vec<Found> = Vec::new();
    for error in errors {
        let at = lines.at(error.span().map_or(0, |span| span.start));
        if found.iter().all(|earlier| earlier.at.line != at.line) {
            let message = format!("not TOML: {}", error.message());
            found.push(Found {
                at,
                key: String::new(),
                message,
                hint: None,
            });
        }
    }
    if !found.is_empty() {
        return Err(found);
    }
    let mut builder = Builder {
        lines: &lines,
        found,
    };
    let at = At {
        source,
        line: 1,
        column: 1,
    };
    let node = Node {
        at,
        kind: Kind::Table(builder.table(table.get_ref(), "")),
    };
    if builder.found.is_empty() {
        Ok(node)
    } else {
        Err(builder.found)
    }
}

/// Reads one TOML value, all of it written at `at`.
pub(super) fn parse_value(text: &str, at: At) -> Option<Node> {
    let value = DeValue::parse(text).ok()?;
    let lines = Lines::new(at.source, text);
    let mut builder = Builder {
        lines: &lines,
        found: Vec::new(),
    };
    let mut node = builder.node(&value, "");
    place_all(&mut node, at);
    builder.found.is_empty().then_some(node)
}

fn place_all(node: &mut Node, at: At) {
    node.at = at;
    match &mut node.kind {
        Kind::Array(items) => items.iter_mut().for_each(|item| place_all(item, at)),
        Kind::Table(table) => table.values_mut().for_each(|entry| {
            entry.key_at = at;
            place_all(&mut entry.node, at);
        }),
        _ => {}
    }
}

struct Builder<'a> {
    lines: &'a Lines<'a>,
    found: Vec<Found>,
}

impl Builder<'_> {
    fn table(&mut self, table: &DeTable<'_>, key: &str) -> Table {
        let entries = table.iter().map(|(name, value)| {
            let key_at = self.lines.at(name.span().start);
            let node = self.node(value, &join(key, name.get_ref()));
            (name.get_ref().to_string(), Entry { key_at, node })
        });
        entries.collect()
    }

    fn node(&mut self, value: &Spanned<DeValue<'_>>, key: &str) -> Node {
        let at = self.lines.at(value.span().start);
        let kind = match value.get_ref() {
            DeValue::Boolean(value) => Kind::Boolean(*value),
            DeValue::Integer(value) => {
                let number = i128::from_str_radix(value.as_str(), value.radix()).ok();
                let fits =
                    |number: &i128| (i128::from(i64::MIN)..=i128::from(u64::MAX)).contains(number);
                Kind::Integer(number.filter(fits).unwrap_or_else(|| {
                    self.problem(
                        at,
                        key,
                        format!("the integer `{value}` has more than 64 bits"),
                    );
                    0
                }))
            }
            DeValue::Float(value) => {
                let number = value.as_str().parse::<f64>().ok();
                Kind::Float(
                    number
                        .filter(|number| number.is_finite())
                        .unwrap_or_else(|| {
                            self.problem(at, key, format!("`{value}` is not a finite number"));
                            0.0
                        }),
                )
            }
            DeValue::String(value) => Kind::Text(value.to_string()),
            DeValue::Datetime(value) => Kind::Datetime(value.to_string()),
            DeValue::Array(items) => Kind::Array(
                items
                    .iter()
                    .enumerate()
                    .map(|(i, item)| self.node(item, &format!("{key}[{i}]")))
                    .collect(),
            ),
            DeValue::Table(table) => Kind::Table(self.table(table, key)),
        };
        Node { at, kind }
    }

    fn problem(&mut self, at: At, key: &str, message: String) {
        self.found.push(Found {
            at,
            key: key.to_owned(),
            message,
            hint: None,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_split_at_dots_and_brackets() {
        let split = |key| split_key(key).map(|names| names.join("|"));
        assert_eq!(split("name").as_deref(), Some("name"));
        assert_eq!(
            split("data.source[0].path").as_deref(),
            Some("data|source|0|path")
        );
        assert_eq!(split("a.\"b.c\".d").as_deref(), Some("a|b.c|d"));
        for bad in [
            "", ".", "a.", ".a", "a..b", "a[", "a[x]", "a[0]b", "a\"b", "a.\"b", "a]b[",
        ] {
            assert_eq!(split(bad), None, "{bad}");
        }
    }

    #[test]
    fn columns_are_characters() {
        let lines = Lines::new(0, "é = 1\nüber = 2");
        assert_eq!(
            lines.at(0),
            At {
                source: 0,
                line: 1,
                column: 1
            }
        );
        assert_eq!(
            lines.at("é = ".len()),
            At {
                source: 0,
                line: 1,
                column: 5
            }
        );
        assert_eq!(
            lines.at("é = 1\nü".len()),
            At {
                source: 0,
                line: 2,
                column: 2
            }
        );
        assert_eq!(
            lines.at(1),
            At {
                source: 0,
                line: 1,
                column: 1
            }
        );
        assert_eq!(lines.at(10_000).line, 2);
    }
}
