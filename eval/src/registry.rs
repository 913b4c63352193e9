//! Names in task files that stand for an entry of a `const` registry.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error as _};
use serde::{Serialize, Serializer};

/// An entry of a registry.
pub trait Named: Sized + 'static {
    /// What an entry is called in messages.
    const KIND: &'static str;
    /// The registry.
    const ALL: &'static [Self];
    /// The entry's name, unique in the registry.
    fn name(&self) -> &'static str;
}

/// A registry's entry, written by its name. Its JSON schema lists the names, so that a recipe with
/// another one is refused with its line, the choices and the nearest of them.
pub struct Name<T: Named>(pub &'static T);

impl<T: Named> Name<T> {
    /// The entry with this name.
    pub fn find(name: &str) -> Option<Self> {
        T::ALL.iter().find(|entry| entry.name() == name).map(Name)
    }
}

impl<T: Named> Clone for Name<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: Named> Copy for Name<T> {}

impl<T: Named> std::ops::Deref for Name<T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.0
    }
}

impl<T: Named> fmt::Debug for Name<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name())
    }
}

impl<T: Named> PartialEq for Name<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0.name() == other.0.name()
    }
}

impl<T: Named> Serialize for Name<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.name())
    }
}

impl<'de, T: Named> Deserialize<'de> for Name<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Name::find(&name).ok_or_else(|| {
            let names: Vec<&str> = T::ALL.iter().map(T::name).collect();
            D::Error::custom(format!(
                "unknown {} `{name}`, expected one of: {}",
                T::KIND,
                names.join(", ")
            ))
        })
    }
}

impl<T: Named> JsonSchema for Name<T> {
    fn schema_name() -> Cow<'static, str> {
        T::KIND.into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let names: Vec<&str> = T::ALL.iter().map(T::name).collect();
        json_schema!({ "type": "string", "enum": names })
    }
}
