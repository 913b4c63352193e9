//! Walks a document against a schema and collects every problem.

use serde_json::Value;

use super::join;
use super::shape::{Bounds, Fields, Shape, list, one_of};
use super::suggest::{KeyIndex, nearest, table_name};
use super::tree::{At, Kind, Node, Table};

/// A problem, before its place is spelled out.
#[derive(Debug)]
pub(super) struct Found {
    pub at: At,
    pub key: String,
    pub message: String,
    pub hint: Option<String>,
}

/// Every problem that `document` has with `schema`.
pub(super) fn check(document: &Node, schema: &Value) -> Vec<Found> {
    let mut walk = Walk {
        root: schema,
        keys: KeyIndex::of(schema),
        found: Vec::new(),
    };
    walk.value(document, schema, "");
    walk.found
}

struct Walk<'a> {
    root: &'a Value,
    keys: KeyIndex<'a>,
    found: Vec<Found>,
}

impl<'a> Walk<'a> {
    fn problem(&mut self, at: At, key: &str, message: String, hint: Option<String>) {
        self.found.push(Found {
            at,
            key: key.to_owned(),
            message,
            hint,
        });
    }

    fn value(&mut self, node: &Node, schema: &'a Value, key: &str) {
        let shape = Shape::of(self.root, schema);
        match (&shape, &node.kind) {
            (Shape::Anything, _)
            | (Shape::Boolean, Kind::Boolean(_))
            | (Shape::Text, Kind::Text(_)) => {}
            (Shape::Integer(bounds), Kind::Integer(value)) => {
                // Rounding to f64 moves no integer across a bound that a recipe states.
                self.bounds(node, *bounds, *value as f64, key);
            }
            (Shape::Number(bounds), Kind::Integer(value)) => {
                self.bounds(node, *bounds, *value as f64, key);
            }
            (Shape::Number(bounds), Kind::Float(value)) => self.bounds(node, *bounds, *value, key),
            (Shape::Words(words), Kind::Text(value)) => self.word(node, words, value, key),
            (Shape::Array(schema), Kind::Array(items)) => self.array(node, schema, items, key),
            (Shape::Table(fields), Kind::Table(table)) => self.table(node, fields, table, key),
            (Shape::Choice { tables, words }, Kind::Table(table)) => {
                self.choice(node, tables, words, table, key);
            }
            (Shape::Choice { tables, words }, Kind::Text(value)) => {
                self.choice_word(node, tables, words, value, key);
            }
            (Shape::Either(branches), _) => self.either(node, branches, &shape, key),
            _ => self.wrong_type(node, &shape, key),
        }
    }

    fn wrong_type(&mut self, node: &Node, shape: &Shape<'a>, key: &str) {
        let message = format!(
            "`{key}` is {}, expected {}",
            node.describe(),
            shape.describe(self.root)
        );
        let hint = match (shape, &node.kind) {
            (Shape::Integer(_) | Shape::Number(_) | Shape::Boolean, Kind::Text(value))
                if super::tree::parse_value(value, node.at)
                    .is_some_and(|bare| matches(shape, &bare.kind)) =>
            {
                Some(format!("write {value} without quotes"))
            }
            (Shape::Integer(_), Kind::Float(value)) if value.fract() == 0.0 => {
                Some(format!("write {value:.0}"))
            }
            (
                Shape::Text | Shape::Words(_),
                Kind::Integer(_) | Kind::Float(_) | Kind::Boolean(_),
            ) => Some("put it in quotes".into()),
            (Shape::Array(_), Kind::Table(_)) => Some(format!(
                "a table in a list is written [[{}]]",
                table_key(key)
            )),
            (Shape::Array(_), _) => Some("put it in brackets: [ ... ]".into()),
            (Shape::Table(_) | Shape::Choice { .. }, Kind::Array(_)) => {
                Some(format!("a single table is written {}", table_name(key)))
            }
            _ => None,
        };
        self.problem(node.at, key, message, hint);
    }

    fn bounds(&mut self, node: &Node, bounds: Bounds, value: f64, key: &str) {
        if !bounds.hold(value) {
            let what = node.describe();
            self.problem(
                node.at,
                key,
                format!("`{key}` is {what}, and must be {}", bounds.describe()),
                None,
            );
        }
    }

    fn word(&mut self, node: &Node, words: &[&str], value: &str, key: &str) {
        if !words.contains(&value) {
            let message = format!("`{key}` is {}, expected {}", node.describe(), one_of(words));
            let hint = nearest(value, words).map(|near| format!("did you mean `{near}`?"));
            self.problem(node.at, key, message, hint);
        }
    }

    fn array(&mut self, node: &Node, schema: &'a Value, items: &[Node], key: &str) {
        let limit = |name: &str| schema.get(name).and_then(Value::as_u64);
        let length = items.len() as u64;
        if limit("minItems").is_some_and(|least| length < least)
            || limit("maxItems").is_some_and(|most| length > most)
        {
            let expected = match (limit("minItems"), limit("maxItems")) {
                (Some(least), Some(most)) if least == most => format!("{least}"),
                (Some(least), Some(most)) => format!("{least} to {most}"),
                (Some(least), None) => format!("at least {least}"),
                (_, most) => format!("at most {}", most.unwrap_or(u64::MAX)),
            };
            self.problem(
                node.at,
                key,
                format!("`{key}` has a length of {length}, expected {expected}"),
                None,
            );
        }
        let tuple = schema.get("prefixItems").and_then(Value::as_array);
        for (i, item) in items.iter().enumerate() {
            let schema = tuple
                .and_then(|tuple| tuple.get(i))
                .or_else(|| schema.get("items"));
            if let Some(schema) = schema {
                self.value(item, schema, &format!("{key}[{i}]"));
            }
        }
    }

    fn table(&mut self, node: &Node, fields: &Fields<'a>, table: &Table, key: &str) {
        let known = || fields.known.into_iter().flatten();
        // A key that is already there was not the one meant by a misspelt one.
        let free: Vec<&str> = known()
            .map(|(name, _)| name.as_str())
            .filter(|name| !table.contains_key(*name))
            .collect();
        let mut meant = Vec::new();
        for (name, entry) in table {
            let schema = fields.known.and_then(|known| known.get(name));
            if let Some(schema) = schema.or(fields.others) {
                self.value(&entry.node, schema, &join(key, name));
            } else {
                let message = format!("unknown key `{name}` in {}", table_name(key));
                let hint = self.keys.hint(name, &free);
                self.problem(entry.key_at, &join(key, name), message, hint);
                meant.extend(nearest(name, &free));
            }
        }
        let missing = |name: &&&str| !table.contains_key(**name) && !meant.contains(*name);
        for name in fields.required.iter().filter(missing) {
            let schema = fields.known.and_then(|known| known.get(*name));
            let hint = schema
                .and_then(description)
                .map(|text| format!("`{name}`: {text}"));
            let message = format!("{} lacks `{name}`", table_name(key));
            self.problem(node.at, &join(key, name), message, hint);
        }
    }

    fn choice(
        &mut self,
        node: &Node,
        tables: &[(&'a str, &'a Value)],
        words: &[&str],
        table: &Table,
        key: &str,
    ) {
        let names: Vec<_> = tables.iter().map(|(name, _)| *name).collect();
        let mut chosen = Vec::new();
        for (name, entry) in table {
            match tables.iter().find(|(known, _)| known == name) {
                Some((known, schema)) => {
                    chosen.push((*known, entry.key_at));
                    self.value(&entry.node, schema, &join(key, name));
                }
                None => {
                    let message = format!(
                        "unknown choice `{name}` in {}, expected {}",
                        table_name(key),
                        one_of(&names)
                    );
                    let hint = if words.contains(&name.as_str()) {
                        Some(format!("`{name}` has no settings: write {key} = {name:?}"))
                    } else {
                        self.choice_hint(name, &names)
                    };
                    self.problem(entry.key_at, &join(key, name), message, hint);
                }
            }
        }
        if table.is_empty() {
            let message = format!("{} needs a choice: {}", table_name(key), one_of(&names));
            let hint = names
                .first()
                .map(|name| format!("write {}", table_name(&join(key, name))));
            self.problem(node.at, key, message, hint);
        }
        if let [_, second, ..] = chosen[..] {
            let names: Vec<_> = chosen.iter().map(|(name, _)| *name).collect();
            let message = format!(
                "{} has {} choices: {}",
                table_name(key),
                chosen.len(),
                list(&names)
            );
            self.problem(second.1, key, message, Some("keep one of them".into()));
        }
    }

    /// A key of the choice's content that was written one level too high is worth its table's name.
    fn choice_hint(&self, name: &str, names: &[&str]) -> Option<String> {
        match nearest(name, names) {
            Some(near) => Some(format!("did you mean `{near}`?")),
            None => self.keys.hint(name, &[]),
        }
    }

    fn choice_word(
        &mut self,
        node: &Node,
        tables: &[(&'a str, &'a Value)],
        words: &[&str],
        value: &str,
        key: &str,
    ) {
        if words.contains(&value) {
            return;
        }
        if tables.iter().any(|(name, _)| *name == value) {
            let message = format!("`{key}` is {}, which is a table", node.describe());
            let hint = Some(format!("write {}", table_name(&join(key, value))));
            return self.problem(node.at, key, message, hint);
        }
        let shape = Shape::Choice {
            tables: tables.to_vec(),
            words: words.to_vec(),
        };
        let message = format!(
            "`{key}` is {}, expected {}",
            node.describe(),
            shape.describe(self.root)
        );
        let all: Vec<_> = words
            .iter()
            .copied()
            .chain(tables.iter().map(|(name, _)| *name))
            .collect();
        let hint = nearest(value, &all).map(|near| format!("did you mean `{near}`?"));
        self.problem(node.at, key, message, hint);
    }

    /// The branch that the value has no problem with; else the problems of the only branch that it could be.
    fn either(&mut self, node: &Node, branches: &[&'a Value], shape: &Shape<'a>, key: &str) {
        let before = self.found.len();
        let mut likely = Vec::new();
        for branch in branches {
            let fits = matches(&Shape::of(self.root, branch), &node.kind);
            self.value(node, branch, key);
            let problems = self.found.split_off(before);
            if problems.is_empty() {
                return;
            }
            if fits {
                likely.push(problems);
            }
        }
        match likely.len() {
            1 => self.found.extend(likely.remove(0)),
            _ => self.wrong_type(node, shape, key),
        }
    }
}

/// Whether a value is of the kind that a shape asks for, whatever is inside.
pub(super) fn matches(shape: &Shape<'_>, kind: &Kind) -> bool {
    matches!(
        (shape, kind),
        (Shape::Anything, _)
            | (Shape::Boolean, Kind::Boolean(_))
            | (Shape::Integer(_), Kind::Integer(_))
            | (Shape::Number(_), Kind::Integer(_) | Kind::Float(_))
            | (Shape::Text | Shape::Words(_), Kind::Text(_))
            | (Shape::Choice { .. }, Kind::Text(_) | Kind::Table(_))
            | (Shape::Array(_), Kind::Array(_))
            | (Shape::Table(_), Kind::Table(_))
    )
}

/// The first line of a schema's description.
fn description(schema: &Value) -> Option<&str> {
    schema.get("description")?.as_str()?.lines().next()
}

fn table_key(key: &str) -> String {
    table_name(key).trim_matches(['[', ']']).to_owned()
}
