//! Podman's container events, read line by line.
//!
//! Each line is a JSON object; the line feed is the only framing. Podman 4.3 sends the response head before it parses
//! the request, so it answers an invalid request with status 200 and a line that contains the error. Versions 5.1 and
//! 5.2 send the head only with the first event. With these two versions, a subscription times out unless an event
//! occurs, and ostler then relies on its listings alone. Version 5.3 fixed both.
//!
//! The head does not prove that Podman already reads its events, because Podman starts reading them in parallel. An
//! event that occurs before Podman reads is reported only if the request has an earlier `since`. With `since`, Podman
//! reads its events file from the beginning, and an unreadable line there ends every such stream (according to its
//! source; not observed). After an error, a request without `since` may succeed.
//!
//! Observed on 4.3.1 with the file logger: an exit is reported after 250 ms, the interval at which Podman polls the
//! file. By then a listing and an inspection show the container as exited, with its exit code.
//!
//! Unreadable lines are skipped. The effect of a skipped event is noticed at the next listing. If an unreadable line
//! ended the stream, the effect would be noticed no earlier, and a later Podman version with a new kind of line would
//! end every stream.

use std::{collections::BTreeMap, mem};

use futures_util::{Stream, StreamExt, stream};
use hyper::body::Bytes;
use serde::Deserialize;
use serde_json::json;

use super::{
    super::{EngineResult, EventStream},
    client::Podman,
    convert,
    errors::Failure,
    raw::{Refusal, escape},
};
use crate::domain::{
    ids::ContainerId,
    naming::LABEL_WORKSPACE,
    observed::{ContainerEvent, ContainerEventKind},
    time::Timestamp,
};

/// Name of the call in errors.
const CALL: &str = "subscribe to container events";

/// Maximum length of a line, in bytes. A line contains all labels, whose number and length Podman does not limit.
const LINE_MAX_BYTES: usize = 1 << 20;

/// Attribute with the exit code. Every event has it, but it is meaningful only for an exit.
const EXIT_CODE: &str = "containerExitCode";

/// A line that contains an event.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Report {
    #[serde(rename = "Type")]
    kind: String,
    action: String,
    actor: Actor,
    #[serde(rename = "timeNano")]
    time_nano: i64,
}

/// The container of an event. The attributes contain its labels and a few properties.
#[derive(Deserialize)]
struct Actor {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "Attributes", default)]
    attributes: BTreeMap<String, String>,
}

/// A line with the error because of which Podman sends no events.
#[derive(Deserialize)]
struct Refused {
    response: u16,
    #[serde(flatten)]
    refusal: Refusal,
}

/// Uses the raw client: when it returns, the subscription is active. podman-api's stream connects when it is first
/// polled.
pub(super) async fn subscribe(
    podman: &Podman,
    key: &str,
    value: Option<&str>,
    since: Option<Timestamp>,
) -> EngineResult<EventStream> {
    let pieces = podman.raw.stream(&target(key, value, since)).await;
    let pieces = pieces.map_err(|failure| podman.failed(CALL)(failure.undecided()))?;
    Ok(read(pieces, key, value))
}

/// Path and query of the request.
///
/// `since` is sent in whole seconds, rounded down: repeated events are harmless, and Podman parses fractions as
/// floating point. Podman ORs the values of one filter. It accepts a filter with only a label's key, but then matches
/// nothing; without a value, the events are therefore filtered by the reader below.
fn target(key: &str, value: Option<&str>, since: Option<Timestamp>) -> String {
    // Podman calls the event `died`, and in Docker's format `die`; later versions accept both.
    let mut filters = json!({ "type": ["container"], "event": ["start", "died", "die", "remove"] });
    if let Some(value) = value {
        filters["label"] = json!([format!("{key}={value}")]);
    }
    let since = since.map(|since| format!("&since={}", since.0.div_euclid(1000))).unwrap_or_default();
    format!("/libpod/events?stream=true{since}&filters={}", escape(&filters.to_string()))
}

/// Parses events of containers with this label from Podman's response.
fn read(
    pieces: impl Stream<Item = Result<Bytes, Failure>> + Send + 'static,
    key: &str,
    value: Option<&str>,
) -> EventStream {
    let reader = Reader {
        pieces: Box::pin(pieces),
        lines: Lines::default(),
        key: key.to_owned(),
        value: value.map(str::to_owned),
    };
    Box::pin(stream::unfold(Some(reader), |reader| async {
        let mut reader = reader?;
        let item = reader.next().await?;
        let next = item.is_ok().then_some(reader);
        Some((item, next))
    }))
}

struct Reader<P> {
    pieces: P,
    lines: Lines,
    key: String,
    value: Option<String>,
}

impl<P: Stream<Item = Result<Bytes, Failure>> + Unpin> Reader<P> {
    async fn next(&mut self) -> Option<EngineResult<ContainerEvent>> {
        loop {
            while let Some(line) = self.lines.next() {
                match parse(&line, &self.key, self.value.as_deref()) {
                    Ok(Some(event)) => return Some(Ok(event)),
                    Ok(None) => {}
                    Err(failure) => return Some(Err(failure.of(CALL))),
                }
            }
            match self.pieces.next().await? {
                Ok(piece) => self.lines.feed(&piece),
                Err(failure) => return Some(Err(failure.of(CALL))),
            }
        }
    }
}

/// Parses one line. `None` if the event was not requested, or if the line cannot be parsed.
fn parse(line: &[u8], key: &str, value: Option<&str>) -> Result<Option<ContainerEvent>, Failure> {
    let report = match serde_json::from_slice::<Report>(line) {
        Ok(report) => report,
        Err(error) => return refusal(line).map_or_else(|| Ok(left_out(&error)), Err),
    };
    let Report { kind, action, actor: Actor { id, attributes }, time_nano } = report;
    if kind != "container" || !convert::labelled(&attributes, key, value) {
        return Ok(None);
    }
    let what = match action.as_str() {
        "start" => ContainerEventKind::Started,
        "died" | "die" => ContainerEventKind::Died {
            exit_code: attributes.get(EXIT_CODE).and_then(|code| code.parse().ok()),
        },
        "remove" => ContainerEventKind::Removed,
        _ => return Ok(None),
    };
    let container = match ContainerId::try_from(id) {
        Ok(container) => container,
        Err(error) => return Ok(left_out(&error)),
    };
    let workspace = attributes.get(LABEL_WORKSPACE).and_then(|label| label.parse().ok());
    let at = Timestamp(time_nano.div_euclid(1_000_000));
    Ok(Some(ContainerEvent { container, workspace, what, at }))
}

/// Parses a line that contains an error; `None` for other lines. The error has the kind
/// [`Other`](super::super::ErrorKind::Other), because it concerns the request, not a container.
fn refusal(line: &[u8]) -> Option<Failure> {
    let Refused { response, refusal } = serde_json::from_slice(line).ok()?;
    Some(Failure::Answered { status: response, message: refusal.words() }.undecided())
}

fn left_out(error: &dyn std::error::Error) -> Option<ContainerEvent> {
    // The line itself is not logged, because its labels may contain secrets.
    tracing::debug!(%error, "unreadable event from Podman ignored");
    None
}

/// Assembles chunks into lines.
#[derive(Default)]
struct Lines {
    pending: Vec<u8>,
    /// Whether the current line is too long, so that the rest of it is discarded.
    skipping: bool,
}

impl Lines {
    fn feed(&mut self, piece: &[u8]) {
        self.pending.extend_from_slice(piece);
    }

    /// Returns the next complete line.
    fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') else {
                if self.pending.len() > LINE_MAX_BYTES {
                    self.pending.clear();
                    self.skipping = true;
                }
                return None;
            };
            let rest = self.pending.split_off(end + 1);
            let line = mem::replace(&mut self.pending, rest);
            if !mem::take(&mut self.skipping) {
                return Some(line);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::{domain::ids::WorkspaceId, engine::ErrorKind};

    const WORKSPACE: &str = "6f1c0c5e-0d0f-4c58-9b0e-0a4c1b7e2d11";

    fn report(action: &str, attributes: &serde_json::Value) -> serde_json::Value {
        json!({
            "status": action, "id": "a".repeat(64), "from": "i", "scope": "local", "Type": "container",
            "Action": action, "Actor": { "ID": "a".repeat(64), "Attributes": attributes },
            "time": 1_795_479_346, "timeNano": 1_795_479_346_822_190_947_i64,
        })
    }

    fn labels() -> serde_json::Value {
        json!({ "containerExitCode": "137", "name": "n", "k": "v", LABEL_WORKSPACE: WORKSPACE })
    }

    fn parse_event(line: &serde_json::Value) -> Option<ContainerEvent> {
        parse(line.to_string().as_bytes(), "k", Some("v")).expect("no refusal")
    }

    fn events(pieces: Vec<Result<Bytes, Failure>>) -> Vec<EngineResult<ContainerEvent>> {
        let events = read(stream::iter(pieces), "k", None).collect::<Vec<_>>();
        events.now_or_never().expect("the stream never has to wait")
    }

    #[test]
    fn container_lifecycle_events_are_parsed() {
        let event = |what| ContainerEvent {
            container: "a".repeat(64).try_into().unwrap(),
            workspace: Some(WORKSPACE.parse::<WorkspaceId>().unwrap()),
            what,
            at: Timestamp(1_795_479_346_822),
        };
        let died = ContainerEventKind::Died { exit_code: Some(137) };
        for (action, what) in [
            ("start", ContainerEventKind::Started),
            ("died", died),
            ("die", died),
            ("remove", ContainerEventKind::Removed),
        ] {
            assert_eq!(parse_event(&report(action, &labels())), Some(event(what)), "{action}");
        }
    }

    #[test]
    fn workspace_id_is_read_only_from_a_canonical_label() {
        for (label, named) in [
            (json!(WORKSPACE), true),
            (json!(WORKSPACE.to_uppercase()), false),
            (json!(WORKSPACE.replace('-', "")), false),
            (json!(""), false),
        ] {
            let event = parse_event(&report("start", &json!({ "k": "v", LABEL_WORKSPACE: label })));
            assert_eq!(event.expect("an event").workspace.is_some(), named, "{label}");
        }
        let event = parse_event(&report("start", &json!({ "k": "v" })));
        assert_eq!(event.expect("an event").workspace, None);
    }

    #[test]
    fn exit_event_without_exit_code_is_reported() {
        for attributes in [json!({ "k": "v" }), json!({ "k": "v", "containerExitCode": "?" })] {
            let event = parse_event(&report("died", &attributes)).expect("an event");
            assert_eq!(event.what, ContainerEventKind::Died { exit_code: None });
        }
    }

    #[test]
    fn unrequested_or_malformed_events_are_ignored() {
        let other = |key: &str, value: &str| {
            let mut line = report("died", &labels());
            line[key] = json!(value);
            line
        };
        for line in [
            report("cleanup", &labels()),
            report("exec_died", &labels()),
            report("died", &json!({ "k": "w" })),
            report("died", &json!({})),
            other("Type", "image"),
            other("timeNano", "soon"),
            other("Actor", "?"),
            json!({}),
            json!(7),
        ] {
            assert_eq!(parse_event(&line), None, "{line}");
        }
        let mut nameless = report("died", &labels());
        nameless["Actor"]["ID"] = json!("short");
        assert_eq!(parse_event(&nameless), None);
        assert_eq!(parse(b"no JSON\n", "k", None), Ok(None));
    }

    /// The message of Podman 4.3.1, which arrives with status 200.
    #[test]
    fn error_in_event_stream_is_reported_as_kind_other() {
        let words = "unable to convert since time of x: no such container";
        let line = json!({ "cause": "no such container", "message": words, "response": 404 });
        let [Err(error)] = &events(vec![Ok(format!("{line}\n{}\n", report("died", &labels())).into())])[..]
        else {
            panic!("not one error")
        };
        assert_eq!((error.kind, error.message.as_str()), (ErrorKind::Other, words));
    }

    #[test]
    fn event_lines_are_joined_across_chunks() {
        let text = format!("{}\n\n?\n{}\n", report("start", &labels()), report("died", &labels()));
        for size in [1, 7, 4096] {
            let pieces = text.as_bytes().chunks(size).map(|piece| Ok(Bytes::copy_from_slice(piece)));
            let whats = events(pieces.collect()).into_iter().map(|event| event.expect("no error").what);
            let died = ContainerEventKind::Died { exit_code: Some(137) };
            assert_eq!(whats.collect::<Vec<_>>(), [ContainerEventKind::Started, died], "in {size}s");
        }
    }

    #[test]
    fn overlong_event_line_is_skipped_with_bounded_memory() {
        let mut lines = Lines::default();
        for _ in 0..40 {
            lines.feed(&vec![b'x'; LINE_MAX_BYTES / 16]);
            assert_eq!(lines.next(), None);
            assert!(lines.pending.len() <= LINE_MAX_BYTES, "{} bytes are kept", lines.pending.len());
        }
        lines.feed(b"its end\nshort\n");
        assert_eq!(lines.next().as_deref(), Some(&b"short\n"[..]));
    }

    #[test]
    fn event_stream_delivers_prior_events_then_ends_at_error() {
        let line = || Ok(format!("{}\n", report("start", &labels())).into());
        let parsed = events(vec![line(), Err(Failure::NoAnswer("gone".into())), line()]);
        assert!(
            matches!(&parsed[..], [Ok(_), Err(error)] if error.kind == ErrorKind::Unreachable),
            "{parsed:?}"
        );
    }

    #[test]
    fn event_request_filters_by_one_label_and_whole_seconds() {
        let asked = target("k", Some("v w&"), Some(Timestamp(1999)));
        assert!(asked.starts_with("/libpod/events?stream=true&since=1&filters="), "{asked}");
        assert!(asked.contains("%22k%3Dv%20w%26%22"), "{asked}");
        let asked = target("k", None, None);
        assert!(!asked.contains("since") && !asked.contains("label"), "{asked}");
    }
}
