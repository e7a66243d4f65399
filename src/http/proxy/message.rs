//! The JSON-RPC envelope of a message.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use axum::body::Bytes;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::{RawValue, to_raw_value};

/// A message that is not a JSON-RPC request.
#[derive(Debug)]
pub(crate) struct NotJson(String);

impl fmt::Display for NotJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the message is not a JSON-RPC request: {}", self.0)
    }
}

impl std::error::Error for NotJson {}

impl From<serde_json::Error> for NotJson {
    fn from(error: serde_json::Error) -> Self {
        Self(error.to_string())
    }
}

/// The top-level members that a message needs. A duplicate member is an error, because two parsers could interpret the
/// message differently.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    jsonrpc: Option<&'a RawValue>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
    #[serde(rename = "method")]
    _method: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Params<'a> {
    #[serde(borrow)]
    message: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Inner<'a> {
    #[serde(borrow, rename = "messageId")]
    message_id: Option<&'a RawValue>,
}

/// The members of an object; values keep their original text.
type Members<'a> = BTreeMap<Cow<'a, str>, &'a RawValue>;

/// Adds those members of `jsonrpc`, `id` and `params.message.messageId` that are missing; `null` counts as missing.
///
/// A complete message is returned as the same bytes. Otherwise the untouched values are copied with their original
/// text. Only these three levels are parsed: deeper values are skipped without building them and without recursion.
///
/// # Errors
/// When the message is not a JSON object.
pub(crate) fn complete_message(
    bytes: &Bytes,
    mut fresh_id: impl FnMut() -> String,
) -> Result<Bytes, NotJson> {
    if bytes.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return Err(NotJson("not a JSON object".into()));
    }
    let Envelope { jsonrpc, id, params, _method } = serde_json::from_slice(bytes)?;
    let params = params.filter(|params| is_object(params));
    let message = params.map(|params| serde_json::from_str::<Params<'_>>(params.get())).transpose()?;
    let message = message.and_then(|params| params.message).filter(|message| is_object(message));
    let inner = message.map(|message| serde_json::from_str::<Inner<'_>>(message.get())).transpose()?;
    let lacks_message_id = inner.is_some_and(|inner| inner.message_id.is_none());
    if jsonrpc.is_some() && id.is_some() && !lacks_message_id {
        return Ok(bytes.clone());
    }

    let version = to_raw_value("2.0")?;
    let request_id = id.is_none().then(|| to_raw_value(&fresh_id())).transpose()?;
    let mut filled = None;
    if let (true, Some(params), Some(message)) = (lacks_message_id, params, message) {
        let message_id = to_raw_value(&fresh_id())?;
        let message = with(message, "messageId", &message_id)?;
        filled = Some(with(params, "message", &message)?);
    }
    let mut whole: Members<'_> = serde_json::from_slice(bytes)?;
    if jsonrpc.is_none() {
        whole.insert("jsonrpc".into(), &version);
    }
    if let Some(request_id) = &request_id {
        whole.insert("id".into(), request_id);
    }
    if let Some(params) = &filled {
        whole.insert("params".into(), params);
    }
    Ok(serde_json::to_vec(&whole)?.into())
}

/// The id of a JSON-RPC 2.0 request: a string, a number or null. `None` if the bytes are not such a request. For a
/// notification, which has no id, the result is `None` too.
pub(crate) fn call_id(bytes: &[u8]) -> Option<Box<RawValue>> {
    #[derive(Deserialize)]
    struct Call<'a> {
        #[serde(borrow)]
        jsonrpc: Cow<'a, str>,
        #[serde(borrow, rename = "method")]
        _method: Cow<'a, str>,
        #[serde(borrow)]
        id: &'a RawValue,
    }
    let call: Call<'_> = serde_json::from_slice(bytes).ok()?;
    let sayable = call.id.get().starts_with(|first: char| matches!(first, '"' | '-' | '0'..='9' | 'n'));
    (call.jsonrpc == "2.0" && sayable).then(|| call.id.to_owned())
}

fn is_object(value: &RawValue) -> bool {
    value.get().starts_with('{')
}

/// A copy of the object with one member added or replaced.
fn with(object: &RawValue, name: &str, value: &RawValue) -> Result<Box<RawValue>, serde_json::Error> {
    let mut members: Members<'_> = serde_json::from_str(object.get())?;
    members.insert(name.into(), value);
    to_raw_value(&members)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(text: &str) -> Result<serde_json::Value, NotJson> {
        let mut count = 0;
        let bytes = complete_message(&Bytes::copy_from_slice(text.as_bytes()), || {
            count += 1;
            format!("fresh-{count}")
        })?;
        Ok(serde_json::from_slice(&bytes).unwrap())
    }

    #[test]
    fn complete_message_keeps_its_bytes_unchanged() {
        for text in [
            r#"{"jsonrpc":"2.0","id":1,"method":"message/send","params":{"message":{"messageId":"m"}}}"#,
            r#" { "jsonrpc" : "2.0", "id":"x", "params":{"message":{"messageId":"m","n":1e999}},"x":1.0 } "#,
            r#"{"jsonrpc":"2.0","id":0,"method":"tasks/get","params":{"id":"t"}}"#,
            r#"{"jsonrpc":"2.0","id":0,"method":"x","params":[1,2]}"#,
            r#"{"jsonrpc":"2.0","id":0,"method":"x","params":{"message":"text"}}"#,
            r#"{"jsonrpc":"2.0","id":0,"method":"x"}"#,
        ] {
            let bytes = Bytes::copy_from_slice(text.as_bytes());
            let same = complete_message(&bytes, || panic!("no id is missing in {text}")).unwrap();
            assert_eq!(same.as_ptr(), bytes.as_ptr(), "{text} was copied");
            assert_eq!(same, bytes);
        }
    }

    #[test]
    fn missing_message_fields_are_added_and_others_kept() {
        use serde_json::json;
        for (text, expected) in [
            (
                r#"{"method":"message/send","params":{"message":{"parts":[{"text":"hi"}]},"x":1}}"#,
                json!({"jsonrpc": "2.0", "id": "fresh-1", "method": "message/send", "params":
                    {"message": {"messageId": "fresh-2", "parts": [{"text": "hi"}]}, "x": 1}}),
            ),
            (r#"{"method":"x"}"#, json!({"jsonrpc": "2.0", "id": "fresh-1", "method": "x"})),
            (r#"{"method":"x","id":null}"#, json!({"jsonrpc": "2.0", "id": "fresh-1", "method": "x"})),
            (
                r#"{"jsonrpc":"2.0","id":7,"params":{"message":{}}}"#,
                json!({"jsonrpc": "2.0", "id": 7, "params": {"message": {"messageId": "fresh-1"}}}),
            ),
            (
                r#"{"id":7,"params":{"message":{"messageId":"m"}}}"#,
                json!({"jsonrpc": "2.0", "id": 7, "params": {"message": {"messageId": "m"}}}),
            ),
        ] {
            assert_eq!(completed(text).unwrap(), expected, "{text}");
        }
        // A number that fits into no machine type keeps its original text.
        let large = Bytes::from_static(br#"{"id":1,"n":123456789012345678901234567890.10}"#);
        let large = complete_message(&large, || "m".into()).unwrap();
        assert_eq!(large, r#"{"id":1,"jsonrpc":"2.0","n":123456789012345678901234567890.10}"#);
    }

    #[test]
    fn invalid_message_is_refused() {
        for text in [
            "",
            "null",
            "[]",
            "[{}]",
            "\"text\"",
            "{",
            "{}{}",
            "{\"id\":1,}",
            "{\"id\":1,\"id\":2}",
            "{\"method\":\"a\",\"method\":\"b\"}",
            "{\"params\":{\"message\":{}",
        ] {
            assert!(completed(text).is_err(), "{text:?} was accepted");
        }
        assert!(
            complete_message(&Bytes::from_static(b"{\"a\":\"\xff\"}"), String::new).is_err(),
            "invalid UTF-8 was accepted"
        );
    }

    #[test]
    fn deeply_nested_message_does_not_overflow_the_stack() {
        for nested in ["{\"a\":", "["] {
            let (open, close) =
                (nested.repeat(500_000), if nested == "[" { "]" } else { "}" }.repeat(500_000));
            let text = format!("{{\"params\":{{\"message\":{{\"x\":{open}1{close}}}}}}}");
            let whole = complete_message(&text.into(), || "m".into());
            assert!(whole.is_ok_and(|whole| whole.ends_with(b"}")));
        }
    }
}
