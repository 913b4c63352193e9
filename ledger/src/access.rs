//! Whose terms a text is under, and everything made from it.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The terms under which a source may be used, from the freest to the strictest.
///
/// What is made from several sources is under the strictest of their classes: classes are ordered, so that is
/// their maximum ([`AccessClass::strictest`]).
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum AccessClass {
    /// Anyone may use it, for anything that its licence allows.
    #[default]
    Open,
    /// Anyone may use it, but not commercially.
    NonCommercial,
    /// Given to people who register and accept terms.
    Registered,
    /// Given to people with credentials and training, under a data use agreement (PhysioNet, i2b2/n2c2).
    Credentialed,
}

impl AccessClass {
    /// Every class, from the freest to the strictest.
    pub const ALL: &[Self] = &[
        Self::Open,
        Self::NonCommercial,
        Self::Registered,
        Self::Credentialed,
    ];

    /// The name used in recipes and manifests.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::NonCommercial => "non-commercial",
            Self::Registered => "registered",
            Self::Credentialed => "credentialed",
        }
    }

    /// The class of what is made from parts of these classes; of nothing, [`AccessClass::Open`].
    pub fn strictest(classes: impl IntoIterator<Item = Self>) -> Self {
        classes.into_iter().max().unwrap_or_default()
    }
}

impl fmt::Display for AccessClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_serde_writes() {
        for &class in AccessClass::ALL {
            let written = serde_json::to_value(class).unwrap();
            assert_eq!(written, class.name());
            assert_eq!(
                serde_json::from_value::<AccessClass>(written).unwrap(),
                class
            );
        }
    }

    #[test]
    fn the_strictest_part_decides() {
        use AccessClass::*;
        assert_eq!(
            AccessClass::strictest([Open, Credentialed, NonCommercial]),
            Credentialed
        );
        assert_eq!(
            AccessClass::strictest([Registered, NonCommercial]),
            Registered
        );
        assert_eq!(AccessClass::strictest([]), Open);
        assert!(AccessClass::ALL.is_sorted());
    }
}
