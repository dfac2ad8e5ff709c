//! Labels: what operators group organizations by, as `msp=northwind`. Policies grant by them.

use std::{fmt, sync::Arc};

use super::OrganizationId;
use crate::malformed::Malformed;

/// Most labels of an organization.
pub const LABELS_MAX: usize = 16;
/// Longest key and longest value, in bytes.
const PART_BYTES_MAX: usize = 63;
const KEY: Malformed = Malformed(
    "a label's key must be 1 to 63 characters of a-z, 0-9, `-`, `_`, `.` and `/`, a letter first and a letter or digit last",
);
const VALUE: Malformed = Malformed(
    "a label's value must be 1 to 63 characters of A-Z, a-z, 0-9, `-`, `_` and `.`, a letter or digit first and last",
);
const TOO_MANY: Malformed = Malformed("must be at most 16 labels");
const TWICE: Malformed = Malformed("a key can have one value only");
const NO_PAIR: Malformed = Malformed("must be a key and a value like msp=northwind");

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Label {
    key: Box<str>,
    value: Box<str>,
}

/// The labels of an organization: one value a key, in the order of the keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(Vec<Label>);

/// Tells who has a label.
pub trait Labelled {
    /// Whether the organization has it.
    fn has(&self, organization: &OrganizationId, label: &Label) -> bool;
}

impl Label {
    /// Checks a key and a value.
    ///
    /// # Errors
    /// [`Malformed`]; the rules are in its text.
    pub fn new(key: &str, value: &str) -> Result<Self, Malformed> {
        let begins = key.starts_with(|first: char| first.is_ascii_lowercase());
        let of_key = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_./".contains(&b);
        if !begins || !is_part(key, of_key) {
            return Err(KEY);
        }
        if !is_part(value, |b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
            return Err(VALUE);
        }
        Ok(Self {
            key: key.into(),
            value: value.into(),
        })
    }

    /// Parses `key=value`.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let (key, value) = text.split_once('=').ok_or(NO_PAIR)?;
        Self::new(key, value)
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The value.
    #[must_use]
    pub fn value(&self) -> &str {
        &self.value
    }
}

fn is_part(text: &str, may_have: impl Fn(u8) -> bool) -> bool {
    (1..=PART_BYTES_MAX).contains(&text.len())
        && text.bytes().all(may_have)
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.ends_with(|last: char| last.is_ascii_alphanumeric())
}

impl Labels {
    /// Those of an organization without any.
    pub const NONE: Self = Self(Vec::new());

    /// Labels of an organization.
    ///
    /// # Errors
    /// [`Malformed`] for more than [`LABELS_MAX`], and for two values of one key.
    pub fn new(labels: impl IntoIterator<Item = Label>) -> Result<Self, Malformed> {
        let mut labels: Vec<_> = labels.into_iter().take(LABELS_MAX + 1).collect();
        if labels.len() > LABELS_MAX {
            return Err(TOO_MANY);
        }
        labels.sort();
        if labels.windows(2).any(|pair| pair[0].key == pair[1].key) {
            return Err(TWICE);
        }
        Ok(Self(labels))
    }

    /// Labels as they come in a message.
    ///
    /// # Errors
    /// [`Malformed`] for the first that is none, and as [`Self::new`].
    pub fn parse<'a>(
        pairs: impl IntoIterator<Item = (&'a String, &'a String)>,
    ) -> Result<Self, Malformed> {
        let labels = pairs.into_iter().take(LABELS_MAX + 1);
        let labels: Result<Vec<_>, _> = labels.map(|(key, value)| Label::new(key, value)).collect();
        Self::new(labels?)
    }

    /// All of them, in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = &Label> {
        self.0.iter()
    }

    /// Whether this is one of them.
    #[must_use]
    pub fn contains(&self, label: &Label) -> bool {
        self.0.binary_search(label).is_ok()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Labelled for Labels {
    /// Of the organization that has these.
    fn has(&self, _: &OrganizationId, label: &Label) -> bool {
        self.contains(label)
    }
}

impl<T: Labelled> Labelled for Arc<T> {
    fn has(&self, organization: &OrganizationId, label: &Label) -> bool {
        (**self).has(organization, label)
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.key, self.value)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_label_is_a_key_and_a_value_of_few_characters() {
        let long = "a".repeat(63);
        for good in ["msp=northwind", "a=1", "kodo.io/tier=Gold_2.1", "a-b_c=x-y"] {
            let label = Label::parse(good).expect(good);
            assert_eq!(label.to_string(), good);
        }
        assert!(Label::new(&long, &long).is_ok());
        for bad in [
            "", "=", "msp", "msp=", "=x", "Msp=x", "1msp=x", "-a=x", "a-=x", "a/=x", "a=-x",
            "a=x-", "a=x=y", "a=x/y", "a=\u{e9}", "\u{e9}=a", "a b=c", "a= b", "a=b\n", "a=*",
        ] {
            assert!(Label::parse(bad).is_err(), "{bad:?}");
        }
        assert!(Label::new(&format!("{long}a"), "x").is_err());
        assert!(Label::new("x", &format!("{long}a")).is_err());
    }

    #[test]
    fn an_organization_has_at_most_sixteen_and_one_value_a_key() {
        let of =
            |count: usize| (0..count).map(|at| Label::new(&format!("k{at}"), "v").expect("one"));
        assert!(Labels::new(of(16)).is_ok());
        assert_eq!(Labels::new(of(17)), Err(TOO_MANY));
        let twice = ["a=x", "b=x", "a=y"].map(|text| Label::parse(text).expect(text));
        assert_eq!(Labels::new(twice), Err(TWICE));
    }

    proptest! {
        #[test]
        fn whatever_is_parsed_reads_back_the_same(text in "\\PC{0,70}") {
            if let Ok(label) = Label::parse(&text) {
                prop_assert_eq!(label.to_string(), text);
            }
        }
    }
}
