//! Reads an agent's response to a delegated task.
//!
//! A response may be as large as the response to a message, but a delegation stores only a short preview. So the
//! response is read as a stream and little of it is kept in memory: long strings are truncated. If a response is still
//! too long, only its beginning is read.

use axum::{http::StatusCode, response::Response};
use http_body_util::BodyExt;
use serde_json::Value;

use crate::{
    domain::delegation::PREVIEW_BYTES,
    http::{
        error::{HttpError, HttpResult},
        journal::cut,
    },
};

/// Most bytes of a response in memory.
///
/// Memory up to this size is not reserved, as for all small responses. The limit on concurrent delegations bounds the
/// total.
const KEPT_BYTES: usize = 64 << 10;

/// Most bytes kept of one string; more than [`PREVIEW_BYTES`].
const STRING_KEPT_BYTES: usize = 4 << 10;

/// Prefix of the preview of a response that was not read to its end.
const CUT: &str = "(the response was truncated) ";

/// Result of one attempt.
pub(super) enum Ended {
    /// The agent's response, as text.
    Answered(String),
    /// The task was stored for an agent that polls.
    Queued,
    /// There was no successful response. Contains the reason.
    Failed(String),
}

/// Reads a response to its end, or until the kept part has more than `KEPT_BYTES`.
///
/// # Errors
/// When the agent closes the connection before the end.
pub(super) async fn read(answer: Response) -> HttpResult<Ended> {
    let status = answer.status();
    let (mut body, mut gist) = (answer.into_body(), Gist::default());
    while !gist.is_full()
        && let Some(frame) = body.frame().await
    {
        let frame = frame.map_err(|_| {
            HttpError::new(
                StatusCode::BAD_GATEWAY,
                "the agent closed the connection before the end of its response",
            )
        })?;
        gist.add(frame.data_ref().map_or(&[], |data| data));
    }
    Ok(outcome_of(status, &gist))
}

/// A JSON response with its long strings truncated. It keeps its structure, and its size is bounded.
#[derive(Default)]
struct Gist {
    kept: Vec<u8>,
    location: Location,
    escaped: bool,
}

/// Position of the scanner in a JSON text.
#[derive(Default)]
enum Location {
    #[default]
    Between,
    /// In a string, after this number of its bytes.
    In(usize),
    /// In the omitted rest of a string.
    Beyond,
}

impl Gist {
    fn is_full(&self) -> bool {
        self.kept.len() > KEPT_BYTES
    }

    fn add(&mut self, data: &[u8]) {
        for &byte in data {
            if self.is_full() {
                return;
            }
            let in_escape = self.escaped;
            self.escaped = byte == b'\\' && !in_escape;
            // A string is truncated only before a byte that cannot continue an escape sequence or a multi-byte
            // character.
            let is_new =
                !in_escape && (byte == b' ' || byte.is_ascii_alphabetic() && !byte.is_ascii_hexdigit());
            self.location = match self.location {
                Location::Between if byte == b'"' => Location::In(0),
                Location::Between => Location::Between,
                _ if byte == b'"' && !in_escape => Location::Between,
                Location::In(length) if length >= STRING_KEPT_BYTES && is_new => Location::Beyond,
                Location::In(length) => Location::In(length + 1),
                Location::Beyond => Location::Beyond,
            };
            if !matches!(self.location, Location::Beyond) {
                self.kept.push(byte);
            }
        }
    }
}

fn outcome_of(status: StatusCode, gist: &Gist) -> Ended {
    let (body, is_whole) = (&gist.kept, !gist.is_full());
    let value = if is_whole { serde_json::from_slice(body).ok() } else { closed(body) };
    if status.is_success()
        && let Some(value) = value
    {
        return match judged(&value) {
            // The part that was read is a successful response. The prefix shows that the rest is unknown. The rest may
            // contain the status of a failed task.
            Ended::Answered(text) if !is_whole => Ended::Answered(format!("{CUT}{text}")),
            ended @ (Ended::Answered(_) | Ended::Queued | Ended::Failed(_)) => ended,
        };
    }
    let text = String::from_utf8_lossy(body);
    Ended::Failed(format!("the agent responded with {status}: {}", cut(text.into_owned(), PREVIEW_BYTES)))
}

/// Parses the beginning of a truncated JSON text by closing its open strings, arrays and objects.
///
/// If the text ends within an escape sequence, it is closed before that sequence. If it ends within a name or a number,
/// it is closed after the last complete value.
fn closed(beginning: &[u8]) -> Option<Value> {
    const LONGEST_ESCAPE: usize = r"\ud83d\ude00".len();
    let text = String::from_utf8_lossy(beginning);
    let (whole, comma) = close(&text);
    let escapes = text.rmatch_indices('\\').map(|(at, _)| at);
    let escapes = escapes.take_while(|at| at + LONGEST_ESCAPE >= text.len());
    let earlier = escapes.chain([comma]).map(|end| close(&text[..end]).0);
    [whole].into_iter().chain(earlier).find_map(|text| serde_json::from_str(&text).ok())
}

/// Returns the text with its open strings, arrays and objects closed, and the position of its last comma.
fn close(text: &str) -> (String, usize) {
    let (mut open, mut in_string, mut escaped, mut comma) = (Vec::new(), false, false, 0);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' => open.push('}'),
            b'[' => open.push(']'),
            b'}' | b']' => drop(open.pop()),
            b',' => comma = at,
            _ => {}
        }
    }
    let closing = in_string.then_some('"').into_iter().chain(open.into_iter().rev());
    (text.chars().chain(closing).collect(), comma)
}

/// Determines whether a response is successful, a JSON-RPC error, or a failed task.
fn judged(answer: &Value) -> Ended {
    if let Some(error) = answer.get("error").filter(|error| !error.is_null()) {
        let message = error["message"].as_str().map_or_else(|| error.to_string(), ToOwned::to_owned);
        return Ended::Failed(format!("the agent returned an error: {message}"));
    }
    let result = &answer["result"];
    let text = texts_of(result);
    let state = result["status"]["state"].as_str().unwrap_or_default();
    if ["failed", "rejected", "canceled", "TASK_STATE_FAILED", "TASK_STATE_REJECTED", "TASK_STATE_CANCELED"]
        .contains(&state)
    {
        let reason = if text.is_empty() { text } else { format!(": {text}") };
        return Ended::Failed(format!("the agent's task ended with state {state}{reason}"));
    }
    Ended::Answered(if text.is_empty() { result.to_string() } else { text })
}

/// The text parts of a message, or of a task's status and artifacts.
fn texts_of(result: &Value) -> String {
    let artifacts = result["artifacts"].as_array().into_iter().flatten();
    let carriers = [result, &result["message"], &result["status"]["message"]].into_iter().chain(artifacts);
    let parts = carriers.flat_map(|carrier| carrier["parts"].as_array().into_iter().flatten());
    parts.filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn outcome(ended: Ended) -> (bool, String) {
        match ended {
            Ended::Answered(text) => (true, text),
            Ended::Failed(why) => (false, why),
            Ended::Queued => panic!("unexpected queued result"),
        }
    }

    #[test]
    fn response_text_is_read_from_every_response_format() {
        for (answer, well, text) in [
            (
                json!({ "result": { "parts": [{ "text": "a" }, { "kind": "data" }, { "text": "b" }] } }),
                true,
                "a\nb",
            ),
            (json!({ "result": { "message": { "parts": [{ "text": "a" }] } } }), true, "a"),
            (
                json!({ "result": { "status": { "state": "completed" }, "artifacts": [
                    { "parts": [{ "text": "a" }] }, { "parts": [{ "text": "b" }] }] } }),
                true,
                "a\nb",
            ),
            (json!({ "result": "plain" }), true, "\"plain\""),
            (
                json!({ "result": { "status": { "state": "failed", "message": { "parts": [{ "text": "why" }] } } } }),
                false,
                "the agent's task ended with state failed: why",
            ),
            (
                json!({ "result": { "status": { "state": "canceled" } } }),
                false,
                "the agent's task ended with state canceled",
            ),
            (json!({ "error": { "code": -1, "message": "no" } }), false, "the agent returned an error: no"),
        ] {
            assert_eq!(outcome(judged(&answer)), (well, text.to_owned()), "{answer}");
        }
    }
    /// Adds the response in pieces, as a connection delivers it.
    fn read_whole(answer: &str) -> (bool, String) {
        let mut gist = Gist::default();
        for piece in answer.as_bytes().chunks(1000) {
            gist.add(piece);
        }
        assert!(gist.kept.capacity() <= 2 * KEPT_BYTES, "more memory is used than allowed");
        outcome(outcome_of(StatusCode::OK, &gist))
    }

    /// Writes the emoji as a pair of escapes, as most libraries do.
    fn escaped_json(value: &Value) -> String {
        value.to_string().replace('\u{1f600}', r"\ud83d\ude00")
    }

    #[test]
    fn response_with_long_texts_is_read_to_its_end() {
        for long in ["long words ", r"YmFzZTY0", "é\n\u{1f600}\\\"z\u{7}"].map(|text| text.repeat(30_000)) {
            let parts = json!([{ "text": "a" }, { "text": long }]);
            let message = escaped_json(&json!({ "result": { "parts": parts } }));
            let (well, text) = read_whole(&message);
            assert!(
                well && text.starts_with(&format!("a\n{}", cut(long.clone(), 1000))),
                "{}",
                cut(text, 100)
            );
            let failed =
                escaped_json(&json!({ "result": { "parts": parts, "status": { "state": "failed" } } }));
            assert!(!read_whole(&failed).0, "the state after the text was not read");
        }
    }

    #[test]
    fn oversized_response_is_previewed_from_its_beginning() {
        let many = vec![json!({ "text": "é\n\u{1f600}" }); 3_000];
        let message = escaped_json(&json!({ "result": { "parts": many } }));
        let error = escaped_json(&json!({ "error": { "code": -1, "data": many, "message": "no" } }));
        let late = escaped_json(&json!({ "result": { "parts": many, "status": { "state": "failed" } } }));
        // The response is truncated at 50 different positions.
        for shift in 0..50 {
            let read_whole = |answer: &str| read_whole(&format!("{}{answer}", " ".repeat(shift)));
            let (well, text) = read_whole(&message);
            let text =
                text.strip_prefix(CUT).unwrap_or_else(|| panic!("shift {shift}: {}", cut(text.clone(), 100)));
            assert!(well && text.starts_with("é\n\u{1f600}\né") && text.len() > 10_000, "shift {shift}");
            assert!(!read_whole(&error).0, "shift {shift}");
            // The final state is in the unread part, so the result has the prefix.
            let (well, text) = read_whole(&late);
            assert!(well && text.starts_with(CUT), "shift {shift}");
        }
        assert!(!read_whole(&"<html>".repeat(20_000)).0, "not a response of an agent");
    }

    #[test]
    fn truncated_json_is_completed_to_valid_json() {
        for (cut, value) in [
            (r#"{"a":[1,{"b":"c"#, json!({ "a": [1, { "b": "c" }] })),
            (r#"{"a":[1,{"b":"c\u00"#, json!({ "a": [1, { "b": "c" }] })),
            (r#"{"a":1,"b"#, json!({ "a": 1 })),
            (r#"{"a":1,"b":"#, json!({ "a": 1 })),
            (r#"{"a":[1,2,tr"#, json!({ "a": [1, 2] })),
            (r#"{"a":",","b":{"#, json!({ "a": ",", "b": {} })),
        ] {
            assert_eq!(closed(cut.as_bytes()), Some(value), "{cut}");
        }
        assert_eq!(closed(b"<html>"), None);
    }
}
