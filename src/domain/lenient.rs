//! Reads JSON with common defects.
//!
//! Some runtimes truncate text in the middle of an emoji, write `NaN` for an undefined ratio, or send Latin-1. A
//! heartbeat with such a defect still proves that the agent is alive. Bodies are parsed strictly first; this module is
//! used only if that fails.

use std::borrow::Cow;

use serde_json::Value;

/// Decodes a body: drops the byte order mark, and replaces invalid UTF-8 and lone surrogates (such as `\ud83d` without
/// a low surrogate after it) with U+FFFD.
#[must_use]
pub fn repaired(bytes: &[u8]) -> Cow<'_, str> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = String::from_utf8_lossy(bytes);
    match without_lone_surrogates(&text) {
        Some(repaired) => Cow::Owned(repaired),
        None => text,
    }
}

/// Parses a body strictly. If that fails, parses the repaired body. `None` if neither is JSON.
#[must_use]
pub fn value(bytes: &[u8]) -> Option<Value> {
    serde_json::from_slice(bytes).or_else(|_| serde_json::from_str(&repaired(bytes))).ok()
}

/// The UTF-16 code unit of the `\u` escape at the start of the text.
fn escaped_unit(text: &str) -> Option<u16> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    u16::from_str_radix(digits, 16).ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Length of an escape such as `\ud83d`.
const ESCAPE: usize = 6;

/// Replaces lone surrogates; `None` if there are none.
fn without_lone_surrogates(text: &str) -> Option<String> {
    let mut repaired: Option<String> = None;
    let (mut at, mut copied) = (0, 0);
    while let Some(backslash) = text[at..].find('\\') {
        at += backslash;
        let (high, low) = (0xd800..0xdc00, 0xdc00..0xe000);
        let Some(unit) = escaped_unit(&text[at..]) else {
            // Skips the escaped character too: if it is a backslash, it must not be read as the start of another
            // escape.
            let escaped = text[at + 1..].chars().next().map_or(0, char::len_utf8);
            at += 1 + escaped;
            continue;
        };
        if high.contains(&unit) && escaped_unit(&text[at + ESCAPE..]).is_some_and(|next| low.contains(&next))
        {
            at += 2 * ESCAPE;
            continue;
        }
        if high.contains(&unit) || low.contains(&unit) {
            let repaired = repaired.get_or_insert_default();
            repaired.push_str(&text[copied..at]);
            repaired.push('\u{fffd}');
            copied = at + ESCAPE;
        }
        at += ESCAPE;
    }
    repaired.map(|mut repaired| {
        repaired.push_str(&text[copied..]);
        repaired
    })
}

/// The fields of a possibly defective JSON object.
#[derive(Debug, Default, PartialEq)]
pub struct Fields {
    found: Vec<(String, Option<Value>)>,
    /// Whether the object was read up to its closing brace.
    pub whole: bool,
}

/// The result of looking up a field.
#[derive(Clone, Debug, PartialEq)]
pub enum Field {
    /// Missing or null.
    Absent,
    /// Present, but not parseable.
    Unreadable,
    /// The parsed value.
    Value(Value),
}

impl Fields {
    /// Looks up a field by name. If the name occurs several times, the last one counts, as in most JSON parsers.
    #[must_use]
    pub fn get(&self, name: &str) -> Field {
        match self.found.iter().rev().find(|(key, _)| key == name) {
            None | Some((_, Some(Value::Null))) => Field::Absent,
            Some((_, None)) => Field::Unreadable,
            Some((_, Some(value))) => Field::Value(value.clone()),
        }
    }
}

/// Reads the fields `names` of an object separately, so that an unreadable field does not affect the others. `None` if
/// the text does not start with an opening brace.
#[must_use]
pub fn fields(text: &str, names: &[&str]) -> Option<Fields> {
    let mut rest = text.trim_start().strip_prefix('{')?.trim_start();
    let mut fields = Fields::default();
    loop {
        if rest.starts_with('}') {
            fields.whole = true;
            return Some(fields);
        }
        let Some((key, after)) = key(rest) else { return Some(fields) };
        let end = end_of_value(after);
        if names.contains(&key.as_str()) {
            let value = serde_json::from_str(&after[..end.unwrap_or(after.len())]).ok();
            // A value without an end is truncated. It counts as unreadable, because a truncated number may still parse.
            fields.found.push((key, value.filter(|_| end.is_some())));
        }
        let Some(end) = end else { return Some(fields) };
        rest = after[end..].trim_start_matches(|c: char| c == ',' || c.is_ascii_whitespace());
    }
}

/// Parses a key; returns it and the text after its colon.
fn key(text: &str) -> Option<(String, &str)> {
    let end = end_of_string(text)?;
    let key = serde_json::from_str(&text[..end]).ok()?;
    Some((key, text[end..].trim_start().strip_prefix(':')?))
}

/// Length of the string literal at the start of the text.
fn end_of_string(text: &str) -> Option<usize> {
    let mut bytes = text.bytes().enumerate();
    bytes.next().filter(|(_, quote)| *quote == b'"')?;
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => return Some(at + 1),
            b'\\' => drop(bytes.next()),
            _ => {}
        }
    }
    None
}

/// End of the value at the start of the text: the first comma or closing brace outside strings and brackets.
fn end_of_value(text: &str) -> Option<usize> {
    let (mut at, mut depth) = (0, 0_usize);
    while let Some(byte) = text.as_bytes().get(at) {
        match byte {
            b'"' => {
                at += end_of_string(&text[at..])?;
                continue;
            }
            b',' | b'}' if depth == 0 => return Some(at),
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NAMES: [&str; 3] = ["a", "b", "c"];

    fn read(text: &str) -> (Field, Field, bool) {
        let fields = fields(text, &NAMES).expect("the text begins with an object");
        (fields.get("a"), fields.get("b"), fields.whole)
    }

    fn value_of(value: Value) -> Field {
        Field::Value(value)
    }

    #[test]
    fn invalid_unicode_in_json_becomes_replacement_character() {
        for (body, value) in [
            (&br#"{"a":"x\ud83d"}"#[..], "x\u{fffd}"),
            (br#"{"a":"\ude00y"}"#, "\u{fffd}y"),
            (br#"{"a":"\ud83d\ud83d\ude00"}"#, "\u{fffd}\u{1f600}"),
            (br#"{"a":"\\ud83d"}"#, "\\ud83d"),
            (b"{\"a\":\"caf\xe9\"}", "caf\u{fffd}"),
            (b"\xef\xbb\xbf{\"a\":\"x\"}", "x"),
        ] {
            assert_eq!(super::value(body), Some(json!({ "a": value })), "{body:?}");
        }
        assert_eq!(super::value(b"nothing"), None);
    }

    #[test]
    fn unreadable_field_does_not_affect_other_fields() {
        for flaw in ["NaN", "-Infinity", "1e999", "{\"x\":NaN}", "'x'", "\"raw\nline\"", "[1,2", "]"] {
            let (a, b, _) = read(&format!(r#"{{"b":7,"a":{flaw}}}"#));
            assert_eq!((a, b), (Field::Unreadable, value_of(json!(7))), "{flaw}");
        }
        let (a, b, whole) = read(r#"{"a":NaN , "b":"}," , "c":1} and more"#);
        assert_eq!((a, b, whole), (Field::Unreadable, value_of(json!("},")), true));
    }

    #[test]
    fn last_of_duplicate_fields_is_used() {
        assert_eq!(read(r#"{"a":1,"a":2}"#).0, value_of(json!(2)));
    }

    #[test]
    fn complete_fields_of_a_truncated_object_are_read() {
        let whole = r#"{"a":"x","b":12,"c":{"d":[1]}}"#;
        for cut in 1..whole.len() {
            let (a, b, read_whole) = read(&whole[..cut]);
            assert!(!read_whole, "{cut}");
            assert_eq!(a == value_of(json!("x")), cut > 8, "{cut}: {a:?}");
            assert_eq!(
                b == value_of(json!(12)),
                cut > 15,
                "{cut}: a truncated number is not a number: {b:?}"
            );
        }
        assert!(fields("[]", &NAMES).is_none());
        assert!(fields("", &NAMES).is_none());
    }
}
