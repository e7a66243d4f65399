//! Formats events as sentences.

use serde_json::Value;

use crate::{
    api::event::EventView,
    cli::text::{self, printable, printable_lines},
};

/// An event in readable form. Every text in it is safe for a terminal and on one line.
pub(super) struct EventText {
    /// When it happened, in this machine's time zone.
    pub(super) time: String,
    /// Such as `came online`; its subject is the workspace.
    pub(super) sentence: String,
    /// The fields of the payload, beginning with those that give the reason.
    pub(super) facts: Vec<(String, String)>,
    /// The container's last log lines.
    pub(super) log: Vec<String>,
}

impl EventText {
    /// Sentence and all facts on one line.
    pub(super) fn line(&self) -> String {
        let facts = self.facts.iter().map(|(key, value)| format!("; {key}: {value}"));
        [self.sentence.clone()].into_iter().chain(facts).collect()
    }
}

/// Fields that the brief form shows after the reason. It leaves out the other fields, which are mostly ids. The fields
/// of an update are the changed settings, so all of them are shown.
const BRIEF: [&str; 20] = [
    "exit_code",
    "oom",
    "exits",
    "timeout_secs",
    "while_daemon_down",
    "recovered_from",
    "runtime_state",
    "error_rate",
    "token",
    "cascade_deleted",
    "purges_cancelled",
    "url",
    "pass",
    "plan_id",
    "phase",
    "prefix",
    "request",
    "fields_refused",
    "current_task",
    "message",
];

/// The event on one line: what happened, why, and the most important facts, with shortened ids.
pub(super) fn brief(event: &EventView) -> String {
    let (reasons, others): (Vec<_>, Vec<_>) =
        facts(event).into_iter().partition(|(key, _)| REASONS.contains(key));
    let reasons: Vec<_> = reasons.into_iter().map(|(_, reason)| reason).collect();
    let reasons = if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join("; ")) };
    // Without what did not happen, such as `oom: no`; in an update, "no" is the new value of a setting.
    let is_shown = |key: &str, value: &str| is_update(event) || (BRIEF.contains(&key) && value != NO);
    let others = others.into_iter().filter(|(key, value)| is_shown(key, value));
    let others = others.map(|(key, value)| format!("; {}: {value}", label(key)));
    let sentence = operation(event).unwrap_or_else(|| sentence(&event.event_type));
    let parts = [sentence, reasons].into_iter().chain(others);
    short_ids(&parts.collect::<String>())
}

/// The sentence for an event of an operation, such as `operation 7 (stop) was ordered by an operator`.
fn operation(event: &EventView) -> Option<String> {
    let text = |key: &str| event.payload.get(key).and_then(Value::as_str).map(printable);
    let (number, kind) = (event.payload.get("operation")?.as_i64()?, text("kind")?);
    Some(match event.event_type.as_str() {
        "OPERATION_ACCEPTED" => {
            let by = text("requested_by")?;
            let by = if by.starts_with("agent:") { "its agent" } else { "an operator" };
            format!("operation {number} ({kind}) was ordered by {by}")
        }
        "OPERATION_WAITING" => format!("operation {number} ({kind}) waits for Podman"),
        "OPERATION_ENDED" => {
            let state = match text("state")?.as_str() {
                "done" => "is done",
                "skipped" => "did nothing",
                "failed" => "failed",
                _ => "was cancelled",
            };
            format!("operation {number} ({kind}) {state}")
        }
        _ => return None,
    })
}

/// Shortens the ids of containers and images, which have 64 hexadecimal digits, to the 12 that Podman shows.
fn short_ids(text: &str) -> String {
    const WHOLE: usize = 64;
    const SHOWN: usize = 12;
    let (mut short, mut rest) = (String::with_capacity(text.len()), text);
    while !rest.is_empty() {
        let is_hex = |c: char| c.is_ascii_hexdigit();
        let digits = rest.find(|c| !is_hex(c)).unwrap_or(rest.len());
        short.push_str(if digits == WHOLE { &rest[..SHOWN] } else { &rest[..digits] });
        rest = &rest[digits..];
        let other = rest.find(is_hex).unwrap_or(rest.len());
        short.push_str(&rest[..other]);
        rest = &rest[other..];
    }
    short
}

/// Fields that give the reason of an event.
const REASONS: [&str; 4] = ["reason", "evidence", "detail", "error"];

/// Shown right after the reason.
const EXIT_CODE: &str = "exit_code";

/// Fields that are not shown as facts. The log is shown as lines of its own; an agent's card, which may be long, is
/// shown by `show --json`.
const APART: [&str; 2] = ["log_tail", "agent_card"];

/// How `false` is shown.
const NO: &str = "no";

/// Maximum number of characters shown of a fact.
const FACT_CHARS: usize = 300;

pub(super) fn describe(event: &EventView) -> EventText {
    EventText {
        time: text::local(&event.created_at),
        sentence: sentence(&event.event_type),
        facts: facts(event).into_iter().map(|(key, value)| (label(key), value)).collect(),
        log: event.payload.get("log_tail").map(lines).unwrap_or_default(),
    }
}

fn is_update(event: &EventView) -> bool {
    event.event_type == "WORKSPACE_UPDATED"
}

/// Fields with a value, and their values: first those with the reason and the exit code, then the others in
/// alphabetical order.
fn facts(event: &EventView) -> Vec<(&str, String)> {
    let Some(payload) = event.payload.as_object() else { return Vec::new() };
    let is_first = |key: &&str| REASONS.contains(key) || *key == EXIT_CODE;
    let others = payload.keys().map(String::as_str).filter(|key| !is_first(key) && !APART.contains(key));
    // In an update, null is the new value of a setting that was cleared.
    let value = |key: &str| match payload.get(key)? {
        value if value.is_null() && is_update(event) => Some("none".to_owned()),
        value => fact(value),
    };
    let keys = REASONS.into_iter().chain([EXIT_CODE]).chain(others);
    keys.filter_map(|key| Some((key, value(key)?))).collect()
}

fn label(key: &str) -> String {
    printable(key).replace('_', " ")
}

fn fact(value: &Value) -> Option<String> {
    let full_text = match value {
        Value::Null => return None,
        Value::Bool(false) => NO.to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::String(text) if text.is_empty() => return None,
        Value::String(text) => printable(text),
        Value::Number(_) | Value::Array(_) | Value::Object(_) => printable(&value.to_string()),
    };
    let mut fact: String = full_text.chars().take(FACT_CHARS).collect();
    if fact.len() < full_text.len() {
        fact.push('…');
    }
    Some(fact)
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

/// The sentence for an event type, with the workspace as its subject. A type that only a newer daemon knows is shown in
/// lower case.
fn sentence(event_type: &str) -> String {
    let known = match event_type {
        "WORKSPACE_PROVISIONING" => "is being started",
        "WORKSPACE_ONLINE" => "came online",
        "WORKSPACE_AWAITING_AGENT" => "is waiting for its agent",
        "WORKSPACE_OFFLINE" => "went offline: its container is gone or has exited",
        "WORKSPACE_DEGRADED" => "is degraded",
        "WORKSPACE_PROVISION_FAILED" => "failed to start",
        "WORKSPACE_PARKED" => "was parked after too many restarts",
        "WORKSPACE_PAUSED" => "was stopped",
        "WORKSPACE_WEDGED" => "is stalled: busy without progress",
        "WORKSPACE_RESTARTED_SILENT" => "is being restarted after missing heartbeats",
        "WORKSPACE_UPDATED" => "was changed",
        "WORKSPACE_HEARTBEAT" => "sent a heartbeat",
        "TASK_UPDATED" => "started or finished a task",
        "AGENT_MESSAGE" => "sent a message to its user",
        "AGENT_CARD_UPDATED" => "sent a new agent card",
        "AGENT_FIELDS_REFUSED" => "sent fields that cannot be used; their stored values are kept",
        "AGENT_REQUESTS_REFUSED" => "sent several consecutive requests that were refused",
        "ADMIN_TOKEN_ISSUED" => "an admin token was issued",
        "ADMIN_TOKEN_REVOKED" => "an admin token was revoked",
        "WORKSPACE_HIBERNATING" => "is hibernating",
        "WORKSPACE_HIBERNATED" => "is hibernated",
        "WORKSPACE_REMOVED" => "was removed",
        "WORKSPACE_UNDELETED" => "was undeleted",
        "WORKSPACE_ADOPTED" => "was adopted: its registry entry was rebuilt from its container",
        "WORKSPACE_STARTED" => "started a new incarnation",
        "CONTAINER_STOP_FAILED" => "has a container that could not be stopped; the stop will be retried",
        "CONTAINER_STOPPED" => "had a running container that must not run; it was stopped",
        "CONTAINER_REAPED" => "has a container or volumes that are being moved to the trash",
        "TRASH_KEPT" => "has a container or volumes in the trash",
        "TRASH_RESTORED" => "had its container or volumes restored from the trash",
        "TRASH_DELETED" => "had a container or volumes permanently deleted",
        "TOKEN_ISSUED" => "was issued a token",
        "TOKEN_REVOKED" => "had a token revoked by an operator",
        "TOKENS_REVOKED" => "had stale tokens revoked by a sweep pass",
        "SWEEP_HELD" => "a sweep plan affects too many workspaces at once and is held for approval",
        "SWEEP_APPROVED" => "a held sweep plan was approved",
        "REGISTRY_RECOVERING" => {
            "the registry was lost or restored; unknown containers and volumes are not changed"
        }
        "REGISTRY_SETTLED" => "the registry has recovered",
        "OPERATION_ACCEPTED" => "was given an order",
        "OPERATION_WAITING" => "has an order that waits for Podman",
        "OPERATION_ENDED" => "has an order that ended",
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
    fn every_event_kind_has_a_description() {
        for kind in EventKind::ALL {
            let word = kind.as_str();
            assert_ne!(sentence(word), word.to_lowercase().replace('_', " "), "{word} has no sentence");
        }
    }

    #[test]
    fn agent_text_cannot_forge_timeline_lines() {
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
        let event_text = describe(&event);
        for text in event_text.facts.iter().flat_map(|(key, value)| [key, value]).chain([&event_text.line()])
        {
            assert!(
                !text.contains(|c: char| c.is_control() || c == '\u{202e}' || c == '\u{2028}'),
                "{text:?}"
            );
        }
    }

    #[test]
    fn brief_event_names_reason_and_important_facts_with_short_ids() {
        let event = |event_type: &str, payload| EventView {
            id: 1,
            event_type: event_type.into(),
            workspace_id: None,
            payload,
            created_at: "2026-01-02T03:04:05.678Z".into(),
        };
        let id = "0123456789abcdef".repeat(4);
        let offline = serde_json::json!({
            "attempt": 2, "evidence": format!("container {id} absent in two listings"), "exit_code": 137, "oom": false,
            "container": id, "log_tail": ["one"],
        });
        assert_eq!(
            brief(&event("WORKSPACE_OFFLINE", offline)),
            "went offline: its container is gone or has exited (container 0123456789ab absent in two listings); \
             exit code: 137"
        );
        let online = serde_json::json!({ "container": id, "incarnation": 3 });
        assert_eq!(brief(&event("WORKSPACE_ONLINE", online)), "came online");
        let updated = serde_json::json!({ "hibernation_idle_minutes": null, "role": "helper" });
        assert_eq!(
            brief(&event("WORKSPACE_UPDATED", updated)),
            "was changed; hibernation idle minutes: none; role: helper"
        );
    }

    #[test]
    fn timeline_line_lists_evidence_first() {
        let event = EventView {
            id: 1,
            event_type: "WORKSPACE_OFFLINE".into(),
            workspace_id: None,
            payload: serde_json::json!({
                "attempt": 2, "evidence": "absent in two listings", "exit_code": 137, "oom": true,
                "nothing": null, "log_tail": ["one", "two\x1b[2J"],
            }),
            created_at: "2026-01-02T03:04:05.678Z".into(),
        };
        let event_text = describe(&event);
        assert_eq!(
            event_text.line(),
            "went offline: its container is gone or has exited; evidence: absent in two listings; exit code: 137; \
             attempt: 2; oom: yes"
        );
        assert_eq!(event_text.log, ["one", "two"]);
    }
}
