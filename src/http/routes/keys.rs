//! The keys of a request's body: which ones a type reads, and which unknown ones are probably misspelt.

use std::fmt;

use serde::{
    Deserializer,
    de::{DeserializeOwned, Error, Visitor},
    forward_to_deserialize_any,
};

/// Keys that existing clients send. A type that does not read such a key ignores it. The key is never treated as a
/// misspelt one, even if it is similar to a key that the type reads.
const EXISTING_CLIENT_KEYS: [&str; 12] = [
    "canvas",
    "x",
    "y",
    "model",
    "template",
    "budget_limit",
    "secrets",
    "collapsed",
    "description",
    "delivery_mode",
    "workspace_dir",
    "workspace_access",
];

/// Returns the keys that a type reads: the field names of its `Deserialize` implementation.
pub(super) fn of<T: DeserializeOwned>() -> &'static [&'static str] {
    match T::deserialize(Fields) {
        Err(Found(fields)) => fields,
        Ok(_) => &[],
    }
}

/// Returns the known key that `key` is probably meant to be: the nearest one with an edit distance of 1 or 2.
pub(super) fn misspelt(key: &str, known: &[&'static str]) -> Option<&'static str> {
    if EXISTING_CLIENT_KEYS.contains(&key) {
        return None;
    }
    // Two errors in a word of three letters or fewer are too many to recognise the word.
    let near = |word: &&'static str| match distance(key, word) {
        1 => true,
        2 => word.len() > 3 && key.len() > 3,
        _ => false,
    };
    known.iter().filter(|word| near(word)).min_by_key(|word| distance(key, word)).copied()
}

/// Edit distance: how many letters have to be replaced, inserted, deleted or swapped with their neighbour.
fn distance(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().take(64).collect(), other.chars().collect());
    let width = other.len() + 1;
    let mut table: Vec<usize> = (0..(one.len() + 1) * width).map(|at| at / width + at % width).collect();
    for row in 1..=one.len() {
        for column in 1..width {
            let same = one[row - 1] == other[column - 1];
            let at = |row: usize, column: usize| table[row * width + column];
            let mut least = (at(row - 1, column) + 1)
                .min(at(row, column - 1) + 1)
                .min(at(row - 1, column - 1) + usize::from(!same));
            if row > 1 && column > 1 && one[row - 1] == other[column - 2] && one[row - 2] == other[column - 1]
            {
                least = least.min(at(row - 2, column - 2) + 1);
            }
            table[row * width + column] = least;
        }
    }
    table.last().copied().unwrap_or(0)
}

/// A deserializer that reads nothing and fails with the list of fields that the type requests.
struct Fields;

#[derive(Debug)]
struct Found(&'static [&'static str]);

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl std::error::Error for Found {}

impl Error for Found {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self(&[])
    }
}

impl<'de> Deserializer<'de> for Fields {
    type Error = Found;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Found> {
        Err(Found(&[]))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Found> {
        Err(Found(fields))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::spec::{CreateWorkspace, PatchWorkspace};

    #[test]
    fn request_keys_are_the_fields_of_the_type() {
        assert!(of::<CreateWorkspace>().contains(&"workspace_dir"));
        assert!(of::<PatchWorkspace>().contains(&"parent_id"));
        assert!(of::<String>().is_empty());
    }

    #[test]
    fn misspelt_keys_are_detected_and_unrelated_keys_ignored() {
        let known = of::<CreateWorkspace>();
        for (key, meant) in [
            ("nmae", "name"),
            ("nam", "name"),
            ("teir", "tier"),
            ("Name", "name"),
            ("comand", "command"),
            ("imgae", "image"),
            ("uri", "url"),
            ("runtimes", "runtime"),
            ("workspacedir", "workspace_dir"),
        ] {
            assert_eq!(misspelt(key, known), Some(meant), "{key}");
        }
        for key in EXISTING_CLIENT_KEYS.into_iter().chain(["parent", "x1", "ui", "labels", "owner", "é", ""])
        {
            assert_eq!(misspelt(key, known), None, "{key}");
        }
    }
}
