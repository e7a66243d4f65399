//! Formats events as sentences.

use serde_json::{Map, Value};

use crate::{
    api::EventView,
    cli::text::{self, printable, printable_lines},
};

/// An event in readable form. Every text in it is safe for a terminal and on one line.
pub(super) struct Told {
    /// When it happened, in this machine's time zone.
    pub(super) time: String,
    /// Such as `came online`; the workspace is its subject.
    pub(super) sentence: String,
    /// The fields of the payload, those with the reason first.
    pub(super) facts: Vec<(String, String)>,
    /// The container's last log lines.
    pub(super) log: Vec<String>,
}

impl Told {
    /// Sentence and facts on one line.
    pub(super) fn line(&self) -> String {
        let facts = self.facts.iter().map(|(key, value)| format!("; {key}: {value}"));
        [self.sentence.clone()].into_iter().chain(facts).collect()
    }
}

/// Fields that say why, which are shown first; the others follow in alphabetical order.
const FIRST: [&str; 5] = ["reason", "evidence", "detail", "error", "exit_code"];

/// Fields that are not shown as facts: the log has its own form, and an agent's card, which may be long, is in
/// `show --json`.
const APART: [&str; 2] = ["log_tail", "agent_card"];

/// The most characters shown of a fact.
const FACT_CHARS: usize = 300;

pub(super) fn tell(event: &EventView) -> Told {
    let empty = Map::new();
    let payload = event.payload.as_object().unwrap_or(&empty);
    let rest = payload.keys().map(String::as_str).filter(|key| !FIRST.contains(key) && !APART.contains(key));
    let facts = FIRST.into_iter().chain(rest).filter_map(|key| fact(key, payload.get(key)?)).collect();
    Told {
        time: text::local(&event.created_at),
        sentence: sentence(&event.event_type),
        facts,
        log: payload.get("log_tail").map(lines).unwrap_or_default(),
    }
}

fn fact(key: &str, value: &Value) -> Option<(String, String)> {
    let said = match value {
        Value::Null => return None,
        Value::Bool(false) => "no".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::String(text) if text.is_empty() => return None,
        Value::String(text) => printable(text),
        Value::Number(_) | Value::Array(_) | Value::Object(_) => printable(&value.to_string()),
    };
    let mut shown: String = said.chars().take(FACT_CHARS).collect();
    if shown.len() < said.len() {
        shown.push('…');
    }
    Some((printable(key).replace('_', " "), shown))
}

/// Splits the log tail into lines. In the payload it is one text or a list of lines.
fn lines(tail: &Value) -> Vec<String> {
    let texts = match tail {
        Value::Array(lines) => lines.iter().filter_map(Value::as_str).collect(),
        Value::String(text) => vec![text.as_str()],
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => Vec::new(),
    };
    texts
        .into_iter()
        .flat_map(|text| printable_lines(text).lines().map(printable).collect::<Vec<_>>())
        .collect()
}

/// The sentence for an event type, with the workspace as its subject. An unknown type, of a newer daemon, is shown in
/// lower case.
fn sentence(event_type: &str) -> String {
    let known = match event_type {
        "WORKSPACE_PROVISIONING" => "is being started",
        "WORKSPACE_ONLINE" => "came online",
        "WORKSPACE_AWAITING_AGENT" => "waits for its agent",
        "WORKSPACE_OFFLINE" => "went offline: its container is gone or has ended",
        "WORKSPACE_DEGRADED" => "is up, but not well",
        "WORKSPACE_PROVISION_FAILED" => "could not be started",
        "WORKSPACE_PARKED" => "was given up after too many restarts",
        "WORKSPACE_PAUSED" => "was stopped",
        "WORKSPACE_WEDGED" => "is busy, and nothing comes of it",
        "WORKSPACE_RESTARTED_SILENT" => "was not heard for so long that it is started anew",
        "WORKSPACE_UPDATED" => "was changed",
        "WORKSPACE_HEARTBEAT" => "sent a beat",
        "TASK_UPDATED" => "began or ended a task",
        "AGENT_MESSAGE" => "told its user something",
        "AGENT_CARD_UPDATED" => "sent another card",
        "AGENT_FIELDS_REFUSED" => "sent fields that cannot be used; what is stored of them stays",
        "AGENT_REQUESTS_REFUSED" => "has an agent whose requests are refused",
        "ADMIN_TOKEN_ISSUED" => "an admin token was issued",
        "ADMIN_TOKEN_REVOKED" => "an admin token was revoked",
        "WORKSPACE_HIBERNATING" => "is going to sleep",
        "WORKSPACE_HIBERNATED" => "fell asleep",
        "WORKSPACE_REMOVED" => "was removed",
        "WORKSPACE_UNDELETED" => "was brought back from its removal",
        "WORKSPACE_ADOPTED" => "was adopted: its row was rebuilt from its container",
        "WORKSPACE_STARTED_ANEW" => "began a new incarnation",
        "CONTAINER_STOP_FAILED" => "has a container that could not be stopped; it will be tried again",
        "CONTAINER_STOPPED" => "had a container running that must not run; it was stopped",
        "CONTAINER_REAPED" => "had things put on their way into the trash",
        "TRASH_KEPT" => "has things in the trash now",
        "TRASH_RESTORED" => "got its things back from the trash",
        "TRASH_DELETED" => "had things deleted for good",
        "TOKEN_ISSUED" => "was issued a token",
        "TOKEN_REVOKED" => "had a token revoked by a person",
        "TOKENS_REVOKED" => "had stale tokens revoked by a sweep",
        "SWEEP_HELD" => "a sweep would have hit too much at once, and waits for approval",
        "SWEEP_APPROVED" => "a held sweep was approved",
        "REGISTRY_RECOVERING" => "the registry was found lost or restored; unknown things are left alone",
        "REGISTRY_SETTLED" => "the registry has recovered; everything unknown was decided on",
        "ENGINE_ACCEPTED" => "an engine was accepted",
        other => return printable(other).to_lowercase().replace('_', " "),
    };
    known.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::event::EventKind;

    /// An event type without a sentence would be shown as its bare name.
    #[test]
    fn every_kind_of_event_has_a_sentence() {
        for kind in EventKind::ALL {
            let word = kind.as_str();
            assert_ne!(sentence(word), word.to_lowercase().replace('_', " "), "{word} has no sentence");
        }
    }

    #[test]
    fn text_of_an_agent_cannot_imitate_a_line_of_ours() {
        let event = EventView {
            id: 1,
            event_type: "WORKSPACE_UPDATED".into(),
            workspace_id: None,
            payload: serde_json::json!({
                "role": "helper\n2026-01-02 03:04:05  w1 was removed\u{2028}x\u{202e}\u{1b}]0;t\u{7}",
                "k\ney": ["a\u{1b}[2Jb"],
            }),
            created_at: "2026-01-02T03:04:05.678Z".into(),
        };
        let told = tell(&event);
        for text in told.facts.iter().flat_map(|(key, value)| [key, value]).chain([&told.line()]) {
            assert!(
                !text.contains(|c: char| c.is_control() || c == '\u{202e}' || c == '\u{2028}'),
                "{text:?}"
            );
        }
    }

    #[test]
    fn what_it_was_decided_on_comes_first() {
        let event = EventView {
            id: 1,
            event_type: "WORKSPACE_OFFLINE".into(),
            workspace_id: None,
            payload: serde_json::json!({
                "attempt": 2, "evidence": "absent in two listings", "exit_code": 137, "oom_killed": true,
                "nothing": null, "log_tail": ["one", "two\x1b[2J"],
            }),
            created_at: "2026-01-02T03:04:05.678Z".into(),
        };
        let told = tell(&event);
        assert_eq!(
            told.line(),
            "went offline: its container is gone or has ended; evidence: absent in two listings; exit code: 137; \
             attempt: 2; oom killed: yes"
        );
        assert_eq!(told.log, ["one", "two"]);
    }
}
