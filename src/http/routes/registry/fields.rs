//! Reads the fields of a report leniently.

use serde_json::Value;

use super::report::Named;
use crate::domain::{
    heartbeat::{Field, Fields},
    lenient,
};

/// Returns how a body names its workspace. `None` if the id is not a string, or is missing although the body was not
/// cut off.
pub(super) fn named(fields: &lenient::Fields, name: &str, cut: bool) -> Option<Named> {
    match fields.get(name) {
        lenient::Field::Value(Value::String(id)) => Some(Named::InBody(id)),
        lenient::Field::Absent if cut && !fields.whole => Some(Named::ByToken),
        lenient::Field::Value(_) | lenient::Field::Absent | lenient::Field::Unreadable => None,
    }
}

/// Reads fields, and records those whose value is unknown (`unknown`) and those that cannot be used (`refused`).
pub(super) struct Unfit<'a> {
    pub(super) fields: &'a lenient::Fields,
    pub(super) unknown: Fields,
    pub(super) refused: Fields,
}

impl Unfit<'_> {
    pub(super) fn get<T>(&mut self, field: Field, usable: impl FnOnce(Value) -> Option<T>) -> Option<T> {
        let value = match self.fields.get(field.as_str()) {
            lenient::Field::Value(value) => usable(value),
            // The body was cut off or broken, so the field may have been in the lost part.
            lenient::Field::Absent if !self.fields.whole => {
                self.unknown.insert(field);
                return None;
            }
            lenient::Field::Absent => return None,
            lenient::Field::Unreadable => None,
        };
        if value.is_none() {
            self.unknown.insert(field);
            self.refused.insert(field);
        }
        value
    }

    /// Reads a number, or a string that contains one.
    pub(super) fn number(&mut self, field: Field) -> f64 {
        let number = self.get(field, |value| match value {
            Value::Number(number) => number.as_f64(),
            Value::String(text) => text.trim().parse().ok().filter(|number: &f64| number.is_finite()),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        });
        number.unwrap_or_default()
    }

    pub(super) fn text(&mut self, field: Field) -> String {
        self.get(field, |value| if let Value::String(text) = value { Some(text) } else { None })
            .unwrap_or_default()
    }

    pub(super) fn object(&mut self, field: Field, most: usize) -> Option<Value> {
        self.get(field, |value| {
            Some(value).filter(|value| value.is_object() && value.to_string().len() <= most)
        })
    }
}
