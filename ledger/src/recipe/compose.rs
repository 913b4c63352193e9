//! One document from a file, what it extends, and the `--set`s.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::check::{Found, matches};
use super::shape::Shape;
use super::tree::{self, At, Entry, Kind, Node, Sources, Table};
use super::{MAX_FILE_BYTES, refuse};
use crate::{Error, Result};

/// A chain of parents longer than this is a mistake.
const MAX_PARENTS: usize = 16;

/// Reads the file and its parents, merges them, and writes the `--set`s last.
pub(super) fn compose(
    path: &Path,
    sets: &[String],
    schema: &Value,
    sources: &mut Sources,
) -> Result<Node> {
    let mut document = read_chain(path, schema, sources)?;
    let mut found = Vec::new();
    for text in sets {
        let at = sources.add_set(text);
        match parse_set(text, at, schema) {
            Ok((names, node)) => {
                if let Err(message) = write_at(&mut document, &names, node, at, schema, schema) {
                    found.push(Found {
                        at,
                        key: names.join("."),
                        message,
                        hint: None,
                    });
                }
            }
            Err(message) => found.push(Found {
                at,
                key: String::new(),
                message,
                hint: Some(
                    "write --set table.key=value, such as --set train.learning_rate=1e-4".into(),
                ),
            }),
        }
    }
    if found.is_empty() {
        Ok(document)
    } else {
        Err(refuse(sources, found))
    }
}

/// The file merged over its parent, that over its own, and so on.
fn read_chain(path: &Path, schema: &Value, sources: &mut Sources) -> Result<Node> {
    let mut chain: Vec<Node> = Vec::new();
    let mut seen: Vec<PathBuf> = Vec::new();
    // Where the parent was named, for a parent that is missing or was read before.
    let mut named: Option<(At, String)> = None;
    let mut next = Some(path.to_owned());
    while let Some(path) = next.take() {
        let identity = fs::canonicalize(&path).unwrap_or_else(|_| path.clone());
        let text = match read_text(&path) {
            Ok(text) => text,
            Err(error) => return Err(blame(error, named, sources)),
        };
        if let Some((at, parent)) = &named {
            let message = if seen.contains(&identity) {
                format!("`extends = {parent:?}` leads back to a file that was already read")
            } else if seen.len() > MAX_PARENTS {
                format!("more than {MAX_PARENTS} recipes extend one another")
            } else {
                String::new()
            };
            if !message.is_empty() {
                let hint = Some("remove one `extends`".into());
                return Err(refuse(
                    sources,
                    vec![Found {
                        at: *at,
                        key: "extends".into(),
                        message,
                        hint,
                    }],
                ));
            }
        }
        seen.push(identity);
        let source = sources.add_file(path.clone());
        let mut node = tree::parse(source, &text).map_err(|found| refuse(sources, found))?;
        if let Kind::Table(table) = &mut node.kind
            && let Some(entry) = table.remove("extends")
        {
            let Kind::Text(parent) = entry.node.kind else {
                let message = format!("`extends` is {}, expected a string", entry.node.describe());
                let hint = Some("name one recipe, relative to this file".into());
                let found = Found {
                    at: entry.node.at,
                    key: "extends".into(),
                    message,
                    hint,
                };
                return Err(refuse(sources, vec![found]));
            };
            next = Some(path.parent().unwrap_or(Path::new("")).join(&parent));
            named = Some((entry.node.at, parent));
        }
        chain.push(node);
    }
    let mut document = chain
        .pop()
        .unwrap_or_else(|| unreachable!("the recipe itself was read"));
    while let Some(child) = chain.pop() {
        merge(&mut document, child, schema, schema);
    }
    Ok(document)
}

/// A recipe's text: UTF-8, and not longer than a recipe can be.
fn read_text(path: &Path) -> Result<String> {
    let failed = |source| Error::Read {
        path: path.to_owned(),
        source,
    };
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes))
        .map_err(failed)?;
    let invalid = |text: &str| failed(std::io::Error::new(std::io::ErrorKind::InvalidData, text));
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(invalid("it is longer than 1 MiB, which no recipe is"));
    }
    // Editors on Windows write a mark in front that TOML does not know.
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    String::from_utf8(text.to_vec()).map_err(|_| invalid("it is not UTF-8 text"))
}

/// A parent that cannot be read is a problem of the line that names it.
fn blame(error: Error, named: Option<(At, String)>, sources: &Sources) -> Error {
    match (error, named) {
        (Error::Read { path, source }, Some((at, _))) => {
            let message = format!("cannot read `{}`: {source}", path.display());
            let hint = Some("`extends` is relative to the file that it stands in".into());
            refuse(
                sources,
                vec![Found {
                    at,
                    key: "extends".into(),
                    message,
                    hint,
                }],
            )
        }
        (error, _) => error,
    }
}

/// Writes `child` over `base`: tables merge, the rest replaces, and a choice replaces another choice.
fn merge(base: &mut Node, child: Node, root: &Value, schema: &Value) {
    let shape = Shape::of(root, schema);
    match (&mut base.kind, child.kind) {
        (Kind::Table(under), Kind::Table(over)) => {
            if let Shape::Choice { tables, .. } = &shape {
                let same = |name: &String| under.contains_key(name);
                if over.keys().any(|name| !same(name))
                    && tables.iter().any(|(name, _)| under.contains_key(*name))
                {
                    *under = over;
                    base.at = child.at;
                    return;
                }
            }
            for (name, entry) in over {
                match under.get_mut(&name) {
                    Some(existing) => {
                        existing.key_at = entry.key_at;
                        merge(&mut existing.node, entry.node, root, inner(&shape, &name));
                    }
                    None => {
                        under.insert(name, entry);
                    }
                }
            }
            base.at = child.at;
        }
        (_, kind) => *base = Node { at: child.at, kind },
    }
}

/// The schema of a key or an item inside a shape; anything goes where the shape does not know it.
fn inner<'a>(shape: &Shape<'a>, name: &str) -> &'a Value {
    let found = match shape {
        Shape::Table(fields) => fields
            .known
            .and_then(|known| known.get(name))
            .or(fields.others),
        Shape::Choice { tables, .. } => tables
            .iter()
            .find(|(tag, _)| *tag == name)
            .map(|(_, schema)| *schema),
        Shape::Array(schema) => schema.get("items"),
        _ => None,
    };
    found.unwrap_or(&Value::Bool(true))
}

/// `a.b[0]=VALUE`: the names, and the value as TOML or as a bare string.
fn parse_set(text: &str, at: At, schema: &Value) -> Result<(Vec<String>, Node), String> {
    let (key, value) = text.split_once('=').ok_or("it has no `=`")?;
    let names = tree::split_key(key.trim())
        .ok_or_else(|| format!("`{}` is not a dotted key", key.trim()))?;
    if names.len() > 32 {
        return Err("its key is deeper than any recipe".into());
    }
    if names[0] == "extends" {
        return Err("`extends` is read before any --set".into());
    }
    let mut expected = schema;
    for name in &names {
        let shape = Shape::of(schema, expected);
        expected = match &shape {
            Shape::Either(branches) => branches
                .iter()
                .map(|branch| inner(&Shape::of(schema, branch), name))
                .find(|inner| **inner != Value::Bool(true))
                .unwrap_or(&Value::Bool(true)),
            shape => inner(shape, name),
        };
    }
    let bare = Node {
        at,
        kind: Kind::Text(value.trim().to_owned()),
    };
    let shape = Shape::of(schema, expected);
    // `--set name=2024` means the text where only text can stand.
    let node = match tree::parse_value(value.trim(), at) {
        Some(node)
            if matches!(shape, Shape::Text | Shape::Words(_)) && !matches(&shape, &node.kind) =>
        {
            bare
        }
        Some(node) => node,
        None => bare,
    };
    Ok((names, node))
}

/// Merges one value into the document at a key, making the tables on the way.
fn write_at(
    document: &mut Node,
    names: &[String],
    node: Node,
    at: At,
    root: &Value,
    schema: &Value,
) -> Result<(), String> {
    let Some((name, rest)) = names.split_first() else {
        merge(document, node, root, schema);
        return Ok(());
    };
    let shape = Shape::of(root, schema);
    if let Kind::Array(items) = &mut document.kind {
        let length = items.len();
        let item = name
            .parse::<usize>()
            .ok()
            .and_then(|index| items.get_mut(index));
        let item =
            item.ok_or_else(|| format!("`{name}` is not an item of an array of {length}"))?;
        return write_at(item, rest, node, at, root, inner(&shape, name));
    }
    let Kind::Table(table) = &mut document.kind else {
        // A table where a scalar stands: the check says so, at this --set.
        let kind = Kind::Table(Table::new());
        *document = Node { at, kind };
        return write_at(document, names, node, at, root, schema);
    };
    if let Shape::Choice { tables, .. } = &shape
        && !table.contains_key(name)
        && tables.iter().any(|(tag, _)| tag == name)
    {
        table.clear();
    }
    let entry = table.entry(name.clone()).or_insert_with(|| Entry {
        key_at: at,
        node: Node {
            at,
            kind: Kind::Table(Table::new()),
        },
    });
    entry.key_at = at;
    write_at(&mut entry.node, rest, node, at, root, inner(&shape, name))
}
