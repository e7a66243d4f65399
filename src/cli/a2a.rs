//! The messages of A2A, versions 0.2 to 1.0: builds a request and reads the content of a response.

use serde_json::{Value, json};

/// The version of A2A that an agent uses. From 1.0 on, methods and roles have other names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    Zero,
    One,
}

impl Version {
    /// Reads the version from the agent's card. From 1.0 on the card lists interfaces; before, it has one version or
    /// none. For an agent that supports both, the version that the card lists first is used.
    pub(super) fn of_card(card: &Value) -> Self {
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
    pub(super) fn request(self, text: &str) -> Value {
        let (method, role, part) = match self {
            Self::Zero => ("message/send", "user", json!({ "kind": "text", "text": text })),
            Self::One => ("SendMessage", "ROLE_USER", json!({ "text": text })),
        };
        json!({ "method": method, "params": { "message": { "role": role, "parts": [part] } } })
    }

    pub(super) fn headers(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Zero => &[("accept", "application/json, text/event-stream")],
            Self::One => &[("accept", "application/json, text/event-stream"), ("a2a-version", "1.0")],
        }
    }
}

/// The content of a response.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) texts: Vec<String>,
    /// Texts of a task that is not done.
    pub(super) progress: Vec<String>,
    /// Why the response is a failure; `None` if it is none. A predicate whose subject is the agent's name.
    pub(super) failure: Option<String>,
}

impl Content {
    /// Reads a response object, or a complete event of a stream.
    pub(super) fn of(answer: &Value) -> Self {
        if let Some(error) = answer.get("error").filter(|error| !error.is_null()) {
            let text =
                error["message"].as_str().or(error.as_str()).map_or_else(|| error.to_string(), str::to_owned);
            return Self { failure: Some(format!("answered with an error: {text}")), ..Self::default() };
        }
        let result = &answer["result"];
        // From 1.0 on, the object is the value of a key that names its kind; before, it has a field `kind`.
        let inner = ["task", "message", "statusUpdate", "artifactUpdate"].iter().find_map(|key| {
            result.get(key).filter(|value| value.is_object() && result.get("kind").is_none())
        });
        let result = inner.unwrap_or(result);
        let mut content = Self::default();
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
        Content::of(&json!({ "result": result })).texts
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
            let failure = Content::of(&json!({ "result": result })).failure;
            assert_eq!(failure, Some(format!("ended its task as {state}: no disk")));
        }
        let error = Content::of(&json!({ "error": { "code": -1, "message": "no" } })).failure;
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
}
