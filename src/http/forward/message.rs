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
