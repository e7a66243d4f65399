//! `ostler message`
//!
//! The response comes from an agent and may be anything: a message or task of A2A 0.2 to 1.0, as one object or as a
//! stream of events, an error, an HTML page, or a truncated body. The daemon marks responses of agents, so a failure
//! message can say whether the daemon or the agent failed. A response that is not A2A is a failure of the agent, with
//! exit code 1.

use clap::builder::NonEmptyStringValueParser;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE};
use serde_json::{Value, json};

use crate::cli::{
    Session,
    client::{Reply, workspace},
    failure::{Exit, Failure},
    output,
    text::{printable, printable_lines},
};

/// Send a message to a workspace's agent and print the response
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The message is delivered like a message between agents: it wakes a hibernated workspace, but does not start a
stopped one.

Examples:
  ostler message builder hello
  ostler message lead 'ask builder for its progress'
  ostler message builder --json hello        print the whole response")]
pub(in crate::cli) struct Args {
    /// Name, id or prefix of the id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: String,
    /// Text of the message; several arguments are joined with spaces
    #[arg(required = true, num_args = 1.., value_name = "TEXT")]
    text: Vec<String>,
}

/// The header by which the daemon marks an agent's response.
const ANSWERED_BY: &str = "ostler-answered-by";
/// How many characters of a response in an unknown format are shown.
const EXCERPT: usize = 300;

pub(in crate::cli) async fn run(session: &Session<'_>, args: Args) -> Result<u8, Failure> {
    let name = &args.name;
    let view: Value = session.client.get(&workspace(name)).await?;
    let version = Version::of_card(&view["agent_card"]);
    let text = args.text.join(" ");
    let reply = session
        .client
        .exchange(&format!("{}/a2a", workspace(name)), &version.request(&text), version.headers())
        .await?;
    if !reply.headers.contains_key(ANSWERED_BY) {
        // Either an error of the daemon, or the agent polls and will reply with a message of its own.
        let output_json: Value = reply.read().await?;
        if session.out.json() {
            session.out.value(&output_json)?;
        } else {
            session.out.line(&format!("stored for {} until its agent polls", printable(name)))?;
        }
        return Ok(0);
    }
    let mut printer = Printer { session, name, printed: Vec::new(), failure: None };
    printer.print(reply).await?;
    match printer.failure {
        Some(why) => Err(Failure::new(Exit::Failed, printable(&why))),
        None => Ok(0),
    }
}

/// The version of A2A that an agent uses. From 1.0 on, methods and roles have other names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    Zero,
    One,
}

impl Version {
    /// Reads the version from the agent's card. From 1.0 on the card lists interfaces; before, it has one version or
    /// none. For an agent that supports both, the version that the card lists first is used.
    fn of_card(card: &Value) -> Self {
        let interfaces = card["supportedInterfaces"].as_array();
        let json_rpc = interfaces.and_then(|interfaces| {
            interfaces.iter().find(|interface| {
                interface["protocolBinding"].as_str().is_none_or(|name| name.eq_ignore_ascii_case("jsonrpc"))
            })
        });
        let version = json_rpc.unwrap_or(card)["protocolVersion"].as_str();
        match version.and_then(|version| version.split('.').next()?.parse::<u32>().ok()) {
            Some(1..) => Self::One,
            Some(0) | None => Self::Zero,
        }
    }

    /// Builds the request without `jsonrpc` and `id`. The daemon adds them, and in that case sends its own errors in
    /// its plain format, not as JSON-RPC errors.
    fn request(self, text: &str) -> Value {
        let (method, role, part) = match self {
            Self::Zero => ("message/send", "user", json!({ "kind": "text", "text": text })),
            Self::One => ("SendMessage", "ROLE_USER", json!({ "text": text })),
        };
        json!({ "method": method, "params": { "message": { "role": role, "parts": [part] } } })
    }

    fn headers(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Zero => &[("accept", "application/json, text/event-stream")],
            Self::One => &[("accept", "application/json, text/event-stream"), ("a2a-version", "1.0")],
        }
    }
}

/// Prints a response as it arrives. If the response is a failure, records the reason.
struct Printer<'a> {
    session: &'a Session<'a>,
    name: &'a str,
    /// Texts that were printed, so that a text that a task repeats is printed only once.
    printed: Vec<String>,
    failure: Option<String>,
}

impl Printer<'_> {
    async fn print(&mut self, mut reply: Reply) -> Result<(), Failure> {
        let header = |name| reply.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let content_type = header(CONTENT_TYPE).split(';').next().unwrap_or_default().trim().to_lowercase();
        let encoding = header(CONTENT_ENCODING).to_owned();
        let status = reply.status;
        let is_stream = content_type == "text/event-stream" && status.is_success();
        let mut events = Events::default();
        let mut body = Vec::new();
        loop {
            match reply.next().await {
                Ok(Some(data)) if is_stream => {
                    for event in events.take(&data) {
                        self.event(&event)?;
                    }
                }
                Ok(Some(data)) => body.extend_from_slice(&data),
                Ok(None) => break,
                Err(error) => {
                    self.fails(format!("the response of {} was cut off: {error}", self.name));
                    return Ok(());
                }
            }
        }
        if is_stream {
            return match events.end() {
                Some(event) => self.event(&event),
                None => Ok(()),
            };
        }
        let value = serde_json::from_slice::<Value>(&body).ok().filter(Value::is_object);
        if let Some(value) = value {
            self.answer(&value)?;
            if !status.is_success() && self.failure.is_none() {
                self.fails(format!("{} answered with HTTP status {status}", self.name));
            } else if !status.is_success()
                && let Some(why) = &mut self.failure
            {
                *why = format!("{why} (HTTP status {})", status.as_u16());
            }
            return Ok(());
        }
        let text = String::from_utf8_lossy(&body);
        let excerpt: String = text.trim().chars().take(EXCERPT).collect();
        if self.session.out.json() {
            let output_json =
                json!({ "http_status": status.as_u16(), "content_type": content_type, "body": text });
            self.session.out.value(&output_json)?;
        }
        let what = match (encoding.as_str(), content_type.as_str()) {
            ("" | "identity", "") => "no content type".to_owned(),
            ("" | "identity", kind) => kind.to_owned(),
            (encoding, _) => format!("content encoding {encoding}, which was not requested"),
        };
        let beginning =
            if !encoding.is_empty() || excerpt.is_empty() { String::new() } else { format!(": {excerpt}") };
        self.fails(format!(
            "{} answered with HTTP status {} and {what}, which is not an A2A response{beginning}",
            self.name,
            status.as_u16()
        ));
        Ok(())
    }

    /// Handles one event of a stream, which contains a complete response object.
    fn event(&mut self, data: &str) -> Result<(), Failure> {
        if let Ok(value) = serde_json::from_str::<Value>(data) {
            return self.answer(&value);
        }
        let excerpt: String = data.chars().take(EXCERPT).collect();
        self.fails(format!("{} sent an event that is not an A2A response: {excerpt}", self.name));
        Ok(())
    }

    fn answer(&mut self, answer: &Value) -> Result<(), Failure> {
        if self.session.out.json() {
            self.session.out.value(answer)?;
        }
        let Content { texts, progress, failure } = content_of(answer);
        for text in texts {
            if !self.printed.contains(&text) {
                if !self.session.out.json() {
                    self.session.out.line(&printable_lines(&text))?;
                }
                self.printed.push(text);
            }
        }
        for text in progress {
            output::note(&printable_lines(&text));
        }
        if let Some(failure) = failure {
            self.fails(format!("{} {failure}", self.name));
        }
        Ok(())
    }

    /// Records a failure. Only the first one is kept, because later ones follow from it.
    fn fails(&mut self, why: String) {
        self.failure.get_or_insert(why);
    }
}

/// Parses server-sent events from pieces of bytes.
#[derive(Default)]
struct Events {
    rest: Vec<u8>,
    data: Vec<String>,
}

impl Events {
    fn take(&mut self, bytes: &[u8]) -> Vec<String> {
        self.rest.extend_from_slice(bytes);
        let mut events = Vec::new();
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            events.extend(self.line(line.trim_end_matches(['\r', '\n'])));
        }
        events
    }

    fn line(&mut self, line: &str) -> Option<String> {
        if line.is_empty() {
            let data = std::mem::take(&mut self.data);
            return (!data.is_empty()).then(|| data.join("\n"));
        }
        if let Some(data) = line.strip_prefix("data:") {
            self.data.push(data.strip_prefix(' ').unwrap_or(data).to_owned());
        }
        None
    }

    /// Returns the data of the last event if the stream ended before the empty line that completes an event.
    fn end(mut self) -> Option<String> {
        let line = String::from_utf8_lossy(&std::mem::take(&mut self.rest)).into_owned();
        self.line(&line).or_else(|| self.line(""))
    }
}

/// The content of a response.
#[derive(Debug, Default, PartialEq, Eq)]
struct Content {
    texts: Vec<String>,
    /// Texts of a task that is not done.
    progress: Vec<String>,
    /// Why the response is a failure; `None` if it is none. A predicate whose subject is the agent's name.
    failure: Option<String>,
}

fn content_of(answer: &Value) -> Content {
    if let Some(error) = answer.get("error").filter(|error| !error.is_null()) {
        let text =
            error["message"].as_str().or(error.as_str()).map_or_else(|| error.to_string(), str::to_owned);
        return Content { failure: Some(format!("answered with an error: {text}")), ..Content::default() };
    }
    let result = &answer["result"];
    // From 1.0 on, the object is the value of a key that names its kind; before, it has a field `kind`.
    let inner = ["task", "message", "statusUpdate", "artifactUpdate"]
        .iter()
        .find_map(|key| result.get(key).filter(|value| value.is_object() && result.get("kind").is_none()));
    let result = inner.unwrap_or(result);
    let mut content = Content::default();
    content.texts.extend(texts(&result["parts"]));
    content.texts.extend(texts(&result["artifact"]["parts"]));
    for artifact in result["artifacts"].as_array().into_iter().flatten() {
        content.texts.extend(texts(&artifact["parts"]));
    }
    let words = texts(&result["status"]["message"]["parts"]);
    let state = result["status"]["state"].as_str().unwrap_or_default();
    match state.trim_start_matches("TASK_STATE_").to_lowercase().replace('_', "-").as_str() {
        "failed" | "rejected" | "canceled" | "cancelled" | "auth-required" => {
            let why = if words.is_empty() { String::new() } else { format!(": {}", words.join("\n")) };
            content.failure = Some(format!("ended its task as {state}{why}"));
        }
        "submitted" | "working" => content.progress = words,
        _ => content.texts.extend(words),
    }
    let is_empty = content.texts.is_empty() && content.progress.is_empty() && content.failure.is_none();
    if is_empty && state.is_empty() && result.get("kind").is_none() && inner.is_none() {
        // Unknown format: show the whole response.
        content.texts.push(answer.to_string());
    }
    content
}

/// Extracts from each part of a message its text, file name or data.
fn texts(parts: &Value) -> Vec<String> {
    let content_text = |part: &Value| {
        let text = part["text"].as_str().or_else(|| part["root"]["text"].as_str());
        let file = part["file"]["name"].as_str().or_else(|| part["filename"].as_str());
        match (text, file) {
            (Some(text), _) => Some(text.to_owned()),
            (None, Some(file)) => Some(format!("[file {file}]")),
            (None, None) => part.get("data").map(ToString::to_string),
        }
    };
    parts.as_array().into_iter().flatten().filter_map(content_text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts_of(result: &Value) -> Vec<String> {
        content_of(&json!({ "result": result })).texts
    }

    #[test]
    fn message_text_is_extracted_from_every_response_form() {
        let parts =
            json!([{ "kind": "text", "text": "one" }, { "kind": "data", "data": 7 }, { "text": "two" }]);
        let all = ["one", "7", "two"];
        for result in [
            json!({ "parts": parts }),
            json!({ "message": { "role": "ROLE_AGENT", "parts": parts } }),
            json!({ "kind": "task", "status": { "state": "completed" }, "artifacts": [{ "parts": parts }] }),
            json!({ "task": { "status": { "state": "TASK_STATE_COMPLETED" }, "artifacts": [{ "parts": parts }] } }),
            json!({ "status": { "state": "input-required", "message": { "parts": parts } } }),
            json!({ "kind": "artifact-update", "artifact": { "parts": parts } }),
            json!({ "artifactUpdate": { "artifact": { "parts": parts } } }),
        ] {
            assert_eq!(texts_of(&result), all, "{result}");
        }
        let two = json!({ "artifacts": [{ "parts": [{ "text": "a" }] }, { "parts": [{ "text": "b" }] }] });
        assert_eq!(texts_of(&two), ["a", "b"]);
        assert_eq!(texts_of(&json!(7)), [r#"{"result":7}"#]);
    }

    #[test]
    fn failed_task_is_reported_as_failure_in_every_a2a_version() {
        let words = json!({ "parts": [{ "text": "no disk" }] });
        for (result, state) in [
            (json!({ "kind": "task", "status": { "state": "failed", "message": words } }), "failed"),
            (
                json!({ "task": { "status": { "state": "TASK_STATE_FAILED", "message": words } } }),
                "TASK_STATE_FAILED",
            ),
            (
                json!({ "statusUpdate": { "status": { "state": "TASK_STATE_REJECTED", "message": words } } }),
                "TASK_STATE_REJECTED",
            ),
            (
                json!({ "kind": "status-update", "status": { "state": "canceled", "message": words } }),
                "canceled",
            ),
        ] {
            let failure = content_of(&json!({ "result": result })).failure;
            assert_eq!(failure, Some(format!("ended its task as {state}: no disk")));
        }
        let error = content_of(&json!({ "error": { "code": -1, "message": "no" } })).failure;
        assert_eq!(error.as_deref(), Some("answered with an error: no"));
    }

    #[test]
    fn a2a_version_is_read_from_agent_card() {
        for (card, version) in [
            (json!(null), Version::Zero),
            (json!({ "url": "http://x" }), Version::Zero),
            (json!({ "protocolVersion": "0.2.5" }), Version::Zero),
            (json!({ "protocolVersion": "0.3.0", "preferredTransport": "JSONRPC" }), Version::Zero),
            (json!({ "protocolVersion": "1.0" }), Version::One),
            (
                json!({ "supportedInterfaces": [
                    { "protocolBinding": "GRPC", "protocolVersion": "0.3" },
                    { "protocolBinding": "JSONRPC", "protocolVersion": "1.0" },
                ] }),
                Version::One,
            ),
            (
                json!({ "supportedInterfaces": [{ "protocolBinding": "JSONRPC", "protocolVersion": "0.3" }] }),
                Version::Zero,
            ),
        ] {
            assert_eq!(Version::of_card(&card), version, "{card}");
        }
        assert_eq!(Version::One.request("hi")["method"], "SendMessage");
    }

    #[test]
    fn sse_events_are_parsed_across_chunks() {
        let mut events = Events::default();
        assert!(events.take(b": note\r\ndata: {\"a\"").is_empty());
        assert_eq!(events.take(b":1}\r\n\r\ndata: x\ndata: y\n\n"), ["{\"a\":1}", "x\ny"]);
        assert!(events.take(b"data: last").is_empty());
        assert_eq!(events.end().as_deref(), Some("last"));
    }
}
