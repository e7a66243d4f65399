//! Changes of the fields of a spec.

use std::collections::BTreeMap;

/// A change of a field with the type `T`.
pub(super) trait Change<T> {
    fn apply(self, to: &mut T);
}

/// `None` leaves the field unchanged.
impl<T> Change<T> for Option<T> {
    fn apply(self, to: &mut T) {
        if let Some(new) = self {
            *to = new;
        }
    }
}

/// An empty text clears the field.
impl Change<Option<String>> for Option<String> {
    fn apply(self, to: &mut Option<String>) {
        if let Some(text) = self {
            *to = Some(text).filter(|text| !text.is_empty());
        }
    }
}

/// Zero clears the field.
impl Change<Option<u32>> for Option<u32> {
    fn apply(self, to: &mut Option<u32>) {
        if let Some(number) = self {
            *to = Some(number).filter(|number| *number > 0);
        }
    }
}

/// Sets the variables that have a value, and removes the others.
impl Change<BTreeMap<String, String>> for BTreeMap<String, Option<String>> {
    fn apply(self, to: &mut BTreeMap<String, String>) {
        for (key, value) in self {
            match value {
                Some(value) => to.insert(key, value),
                None => to.remove(&key),
            };
        }
    }
}

/// Content of a file. Unlike other texts, it may be empty.
#[derive(Clone, PartialEq, Eq)]
pub struct Content(pub String);

impl From<&str> for Content {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl Change<Option<String>> for Option<Content> {
    fn apply(self, to: &mut Option<String>) {
        if let Some(Content(text)) = self {
            *to = Some(text);
        }
    }
}
