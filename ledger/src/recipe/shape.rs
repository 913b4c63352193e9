//! What a JSON schema lets stand at a place, in the few forms that recipe types take.

use serde_json::{Map, Value};

/// What may stand at a place.
#[derive(Debug)]
pub(super) enum Shape<'a> {
    Anything,
    Boolean,
    Integer(Bounds),
    Number(Bounds),
    Text,
    /// One of some words.
    Words(Vec<&'a str>),
    Array(&'a Value),
    /// A struct, or with `others` a table whose names are free.
    Table(Fields<'a>),
    /// An externally tagged choice: a table with exactly one of these keys, or one of these words.
    Choice {
        tables: Vec<(&'a str, &'a Value)>,
        words: Vec<&'a str>,
    },
    /// An untagged choice between forms, such as a word or a list.
    Either(Vec<&'a Value>),
}

#[derive(Debug)]
pub(super) struct Fields<'a> {
    pub known: Option<&'a Map<String, Value>>,
    pub required: Vec<&'a str>,
    /// The schema of names that are not known; `None`: there are no others.
    pub others: Option<&'a Value>,
}

/// The limits of a number, in words a schema has for them.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bounds {
    pub at_least: Option<f64>,
    pub above: Option<f64>,
    pub at_most: Option<f64>,
    pub below: Option<f64>,
}

impl Bounds {
    fn of(schema: &Value) -> Self {
        let number = |key: &str| schema.get(key).and_then(Value::as_f64);
        let mut bounds = Self {
            at_least: number("minimum"),
            above: number("exclusiveMinimum"),
            at_most: number("maximum"),
            below: number("exclusiveMaximum"),
        };
        // schemars states the limits of the narrow types only by their format.
        let (low, high) = match schema.get("format").and_then(Value::as_str) {
            Some("uint8") => (0.0, f64::from(u8::MAX)),
            Some("uint16") => (0.0, f64::from(u16::MAX)),
            Some("uint32") => (0.0, f64::from(u32::MAX)),
            Some("uint" | "uint64") => (0.0, f64::INFINITY),
            Some("int8") => (f64::from(i8::MIN), f64::from(i8::MAX)),
            Some("int16") => (f64::from(i16::MIN), f64::from(i16::MAX)),
            Some("int32") => (f64::from(i32::MIN), f64::from(i32::MAX)),
            _ => return bounds,
        };
        if bounds.above.is_none() {
            bounds.at_least = Some(bounds.at_least.map_or(low, |least| least.max(low)));
        }
        if bounds.below.is_none() && high.is_finite() {
            bounds.at_most = Some(bounds.at_most.map_or(high, |most| most.min(high)));
        }
        bounds
    }

    pub(super) fn hold(&self, value: f64) -> bool {
        self.at_least.is_none_or(|least| value >= least)
            && self.above.is_none_or(|above| value > above)
            && self.at_most.is_none_or(|most| value <= most)
            && self.below.is_none_or(|below| value < below)
    }

    /// `at least 0 and below 1`
    pub(super) fn describe(&self) -> String {
        let parts = [
            ("at least", self.at_least),
            ("above", self.above),
            ("at most", self.at_most),
            ("below", self.below),
        ];
        let parts = parts
            .iter()
            .filter_map(|(word, limit)| limit.map(|limit| format!("{word} {limit}")));
        parts.collect::<Vec<_>>().join(" and ")
    }
}

/// Follows `$ref`s within the schema.
pub(super) fn resolve<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    let mut schema = schema;
    // A chain of references is one or two long; the bound is for one that bites its tail.
    for _ in 0..16 {
        let target = schema
            .get("$ref")
            .and_then(Value::as_str)
            .and_then(|name| name.strip_prefix('#'));
        match target.and_then(|pointer| root.pointer(pointer)) {
            Some(next) => schema = next,
            None => break,
        }
    }
    schema
}

impl<'a> Shape<'a> {
    pub(super) fn of(root: &'a Value, schema: &'a Value) -> Self {
        let schema = resolve(root, schema);
        if let Some(words) = words(schema) {
            return Self::Words(words);
        }
        for (key, tagged) in [("oneOf", true), ("anyOf", false)] {
            if let Some(branches) = schema.get(key).and_then(Value::as_array) {
                return Self::of_branches(root, branches, tagged);
            }
        }
        match kind(schema) {
            Some("boolean") => Self::Boolean,
            Some("integer") => Self::Integer(Bounds::of(schema)),
            Some("number") => Self::Number(Bounds::of(schema)),
            Some("string") => Self::Text,
            Some("array") => Self::Array(schema),
            Some("object") => Self::Table(Fields::of(schema)),
            _ => Self::Anything,
        }
    }

    fn of_branches(root: &'a Value, branches: &'a [Value], tagged: bool) -> Self {
        let branches: Vec<_> = branches
            .iter()
            .filter(|branch| kind(branch) != Some("null"))
            .collect();
        if let [only] = branches[..] {
            return Self::of(root, only);
        }
        let all: Option<Vec<_>> = branches
            .iter()
            .map(|branch| words(resolve(root, branch)))
            .collect();
        if let Some(all) = all {
            return Self::Words(all.concat());
        }
        let (mut tables, mut choice_words) = (Vec::new(), Vec::new());
        for branch in &branches {
            match (words(branch), tag(branch)) {
                (Some(words), _) if tagged => choice_words.extend(words),
                (None, Some(tag)) if tagged => tables.push(tag),
                _ => return Self::Either(branches),
            }
        }
        Self::Choice {
            tables,
            words: choice_words,
        }
    }

    /// What may stand here, in words: "an integer", "one of `a`, `b`".
    pub(super) fn describe(&self, root: &'a Value) -> String {
        match self {
            Self::Anything => "a value".into(),
            Self::Boolean => "`true` or `false`".into(),
            Self::Integer(_) => "an integer".into(),
            Self::Number(_) => "a number".into(),
            Self::Text => "a string".into(),
            Self::Words(words) => one_of(words),
            Self::Array(schema) => match schema.get("items").map(|items| Self::of(root, items)) {
                Some(Self::Text) => "an array of strings".into(),
                Some(Self::Integer(_)) => "an array of integers".into(),
                Some(Self::Number(_)) => "an array of numbers".into(),
                Some(Self::Table(_) | Self::Choice { .. }) => "an array of tables".into(),
                _ => "an array".into(),
            },
            Self::Table(_) => "a table".into(),
            Self::Choice { tables, words } => {
                let tables = tables.iter().map(|(name, _)| *name).collect::<Vec<_>>();
                match (tables.is_empty(), words.is_empty()) {
                    (false, true) => format!("a table with {}", one_of(&tables)),
                    (true, _) => one_of(words),
                    (false, false) => {
                        format!("{}, or a table with {}", one_of(words), one_of(&tables))
                    }
                }
            }
            Self::Either(branches) => {
                let all: Vec<_> = branches
                    .iter()
                    .map(|branch| Self::of(root, branch).describe(root))
                    .collect();
                all.join(" or ")
            }
        }
    }
}

impl<'a> Fields<'a> {
    fn of(schema: &'a Value) -> Self {
        let known = schema.get("properties").and_then(Value::as_object);
        let required = schema.get("required").and_then(Value::as_array);
        let others = schema
            .get("additionalProperties")
            .filter(|others| **others != Value::Bool(false));
        // A struct that forgot `deny_unknown_fields` denies them all the same; a map says what its values are.
        let free = known.is_none() && schema.get("additionalProperties").is_none();
        Self {
            known,
            required: required
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect(),
            others: others.or(free.then_some(&Value::Bool(true))),
        }
    }
}

/// "`a`", "`a` or `b`", "one of `a`, `b`, `c`".
pub(super) fn one_of(words: &[&str]) -> String {
    match words {
        [] => "nothing".into(),
        [only] => format!("`{only}`"),
        [one, two] => format!("`{one}` or `{two}`"),
        all => format!("one of {}", list(all)),
    }
}

/// "`a`, `b`, `c`".
pub(super) fn list(words: &[&str]) -> String {
    words
        .iter()
        .map(|word| format!("`{word}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// The type of a schema, where `null` beside another type (an `Option`) does not count.
fn kind(schema: &Value) -> Option<&str> {
    match schema.get("type")? {
        Value::String(kind) => Some(kind),
        Value::Array(kinds) => {
            let mut kinds = kinds
                .iter()
                .filter_map(Value::as_str)
                .filter(|kind| *kind != "null");
            match (kinds.next(), kinds.next()) {
                (Some(only), None) => Some(only),
                _ => None,
            }
        }
        _ => None,
    }
}

/// The words of a fieldless enum, or of some of its variants.
fn words(schema: &Value) -> Option<Vec<&str>> {
    if let Some(word) = schema.get("const") {
        return word.as_str().map(|word| vec![word]);
    }
    if let Some(words) = schema.get("enum").and_then(Value::as_array) {
        return words
            .iter()
            .filter(|word| !word.is_null())
            .map(Value::as_str)
            .collect();
    }
    let branches = schema.get("oneOf").and_then(Value::as_array)?;
    let all: Option<Vec<_>> = branches.iter().map(words).collect();
    all.map(|all| all.concat())
}

/// The key and content of one externally tagged variant.
fn tag(schema: &Value) -> Option<(&str, &Value)> {
    let properties = schema.get("properties")?.as_object()?;
    let required = schema.get("required")?.as_array()?;
    match (properties.iter().next(), properties.len(), required.len()) {
        (Some((name, content)), 1, 1) => Some((name, content)),
        _ => None,
    }
}
