//! What chat templates and task templates share: records as template values,
//! and errors that do not quote them.

use std::sync::Arc;

use minijinja::value::{Enumerator, Object, ObjectRepr, Value};
use minijinja::{Environment, ErrorKind};

use crate::{Error, Result};

/// JSON as a template value.
pub(crate) fn value(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(b) => Value::from(*b),
        serde_json::Value::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(n), _) => Value::from(n),
            (_, Some(n)) => Value::from(n),
            _ => Value::from(n.as_f64()),
        },
        serde_json::Value::String(s) => Value::from(s.as_str()),
        serde_json::Value::Array(items) => items.iter().map(value).collect(),
        serde_json::Value::Object(fields) => object(fields),
    }
}

/// A JSON object as a template value.
pub(crate) fn object(fields: &serde_json::Map<String, serde_json::Value>) -> Value {
    map(fields
        .iter()
        .map(|(key, field)| (key.as_str(), value(field))))
}

/// A mapping from names to values, in order.
pub(crate) fn map<'n>(entries: impl IntoIterator<Item = (&'n str, Value)>) -> Value {
    let entries = entries
        .into_iter()
        .map(|(name, value)| (Arc::from(name), value));
    Value::from_object(Fields(entries.collect()))
}

/// An object that keeps the order of its keys, as Python's dictionaries do:
/// options `A` to `E` are listed as the file lists them.
#[derive(Debug)]
struct Fields(Vec<(Arc<str>, Value)>);

impl Object for Fields {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Map
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let key = key.as_str()?;
        self.0
            .iter()
            .find(|(name, _)| &**name == key)
            .map(|(_, value)| value.clone())
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(
            self.0
                .iter()
                .map(|(name, _)| Value::from(name.clone()))
                .collect(),
        )
    }
}

/// Adds `source` under `name` to an environment of its own.
pub(crate) fn compile(
    mut env: Environment<'static>,
    name: &'static str,
    source: &str,
) -> Result<Environment<'static>> {
    // Text, not HTML.
    env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    env.add_template_owned(name, source.to_string())
        .map_err(|error| failed(name, &error))?;
    Ok(env)
}

/// Renders the template that [`compile`] added.
pub(crate) fn render(
    env: &Environment<'static>,
    name: &'static str,
    context: Value,
) -> Result<String> {
    let template = env
        .get_template(name)
        .map_err(|error| failed(name, &error))?;
    template
        .render(context)
        .map_err(|error| failed(name, &error))
}

/// An error of a template function of ours, which may be shown as it is.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refused(String);

/// Fails a template with a message for the user.
pub(crate) fn refuse(message: String) -> minijinja::Error {
    minijinja::Error::from(ErrorKind::InvalidOperation).with_source(Refused(message))
}

fn failed(name: &str, error: &minijinja::Error) -> Error {
    use ErrorKind::{
        SyntaxError, UndefinedError, UnknownFilter, UnknownFunction, UnknownMethod, UnknownTest,
    };
    let refused =
        std::error::Error::source(error).and_then(|source| source.downcast_ref::<Refused>());
    let message = match (refused, error.kind(), error.detail()) {
        (Some(refused), ..) => refused.to_string(),
        // Their details name what stands in the template. Others' may quote a
        // value, which is a record's text, so only their kind is shown.
        (
            None,
            kind @ (SyntaxError | UndefinedError | UnknownFilter | UnknownFunction | UnknownMethod
            | UnknownTest),
            Some(detail),
        ) => format!("{kind}: {detail}"),
        (None, kind, _) => kind.to_string(),
    };
    Error::Template {
        name: name.to_string(),
        line: error.line(),
        message,
        available: Vec::new(),
    }
}
