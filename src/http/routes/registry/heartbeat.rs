//! Heartbeats.

use axum::{
    extract::{Request, State},
    response::Response,
};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{
    fields::{Unfit, named},
    report::{Named, answered, json, report, reset_liveness},
};
use crate::{
    domain::{
        bounds::{METADATA_MAX_BYTES, STATE_MAX_BYTES, TEXT_MAX_BYTES},
        heartbeat::{Field, Fields, Heartbeat, Metadata, SPEND_MAX_CENTS, cut},
        lenient,
    },
    http::{Api, error::HttpResult},
    store::manages_status,
};

/// The body of a heartbeat. Unknown fields are ignored; an absent or null field has its default value.
#[derive(Deserialize)]
struct HeartbeatBody<'a> {
    workspace_id: String,
    #[serde(default, deserialize_with = "number")]
    error_rate: f64,
    #[serde(default, deserialize_with = "text")]
    sample_error: String,
    #[serde(default, deserialize_with = "number")]
    active_tasks: f64,
    #[serde(default, deserialize_with = "number")]
    uptime_seconds: f64,
    #[serde(default, deserialize_with = "text")]
    current_task: String,
    #[serde(default, deserialize_with = "number")]
    monthly_spend: f64,
    #[serde(default, deserialize_with = "text")]
    runtime_state: String,
    #[serde(default, borrow)]
    runtime_metadata: Option<&'a RawValue>,
}

fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Option::<f64>::deserialize(deserializer).map(Option::unwrap_or_default)
}

fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Option::<String>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// Clamps `number` to 0..=`most` and truncates it.
#[expect(clippy::cast_possible_truncation, reason = "clamped to the exact range of an i64")]
fn whole(number: f64, most: i64) -> i64 {
    #[expect(clippy::cast_precision_loss, reason = "the limits are far below 2^53")]
    let most = most as f64;
    number.clamp(0.0, most) as i64
}

/// The longest uptime that is stored, in seconds: a century.
const UPTIME_MAX: i64 = 100 * 366 * 86_400;

impl HeartbeatBody<'_> {
    /// Returns the workspace id and the heartbeat with all values limited. `None` if the metadata cannot be used.
    fn clamped(self) -> Option<(String, Heartbeat)> {
        let metadata = match self.runtime_metadata {
            Some(raw) if raw.get().starts_with('{') && raw.get().len() <= METADATA_MAX_BYTES => {
                Some(metadata_of(raw.get())?)
            }
            Some(raw) if raw.get() == "null" => None,
            Some(_) => return None,
            None => None,
        };
        let heartbeat = Heartbeat {
            error_rate: self.error_rate,
            sample_error: self.sample_error,
            active_tasks: tasks(self.active_tasks),
            uptime_seconds: whole(self.uptime_seconds, UPTIME_MAX),
            current_task: self.current_task,
            monthly_spend_cents: whole(self.monthly_spend, SPEND_MAX_CENTS),
            runtime_state: self.runtime_state,
            metadata,
            unknown: Fields::default(),
            refused: Fields::default(),
        };
        Some((self.workspace_id, bounded(heartbeat)))
    }
}

fn tasks(number: f64) -> u32 {
    u32::try_from(whole(number, i64::from(u32::MAX))).unwrap_or(u32::MAX)
}

fn metadata_of(json: &str) -> Option<Metadata> {
    Some(Metadata { json: json.to_owned(), manages_status: manages_status(json)? })
}

fn bounded(heartbeat: Heartbeat) -> Heartbeat {
    Heartbeat {
        error_rate: heartbeat.error_rate.clamp(0.0, 1.0),
        sample_error: cut(heartbeat.sample_error, TEXT_MAX_BYTES),
        current_task: cut(heartbeat.current_task, TEXT_MAX_BYTES),
        runtime_state: cut(heartbeat.runtime_state, STATE_MAX_BYTES),
        ..heartbeat
    }
}

/// Parses a malformed heartbeat leniently: returns the workspace that it names, and the fields that can be used. `None`
/// if the complete body names no workspace. If the body was cut off before the workspace's id, the result is
/// [`Named::ByToken`].
///
/// Any heartbeat proves that the agent is alive, even if its fields are invalid. Runtimes truncate texts in the middle
/// of an emoji, send the result of a division by zero, and ignore the response. An unusable field leaves its stored
/// value unchanged.
fn lenient_heartbeat(body: &[u8], cut: bool) -> Option<(Named, Heartbeat)> {
    const NAMES: [&str; 9] = [
        "workspace_id",
        "error_rate",
        "sample_error",
        "active_tasks",
        "uptime_seconds",
        "current_task",
        "monthly_spend",
        "runtime_state",
        "runtime_metadata",
    ];
    let text = lenient::repaired(body);
    let fields = lenient::fields(&text, &NAMES).or_else(|| cut.then(lenient::Fields::default))?;
    let id = named(&fields, "workspace_id", cut)?;
    let mut unfit = Unfit { fields: &fields, unknown: Fields::default(), refused: Fields::default() };
    let heartbeat = Heartbeat {
        error_rate: unfit.number(Field::ErrorRate),
        sample_error: unfit.text(Field::SampleError),
        active_tasks: tasks(unfit.number(Field::ActiveTasks)),
        uptime_seconds: whole(unfit.number(Field::UptimeSeconds), UPTIME_MAX),
        current_task: unfit.text(Field::CurrentTask),
        monthly_spend_cents: whole(unfit.number(Field::MonthlySpend), SPEND_MAX_CENTS),
        runtime_state: unfit.text(Field::RuntimeState),
        metadata: unfit
            .object(Field::RuntimeMetadata, METADATA_MAX_BYTES)
            .and_then(|json| metadata_of(&json.to_string())),
        unknown: Fields::default(),
        refused: Fields::default(),
    };
    let mut refused = unfit.refused;
    if !fields.whole {
        refused.insert(Field::Body);
    }
    Some((id, bounded(Heartbeat { unknown: unfit.unknown, refused, ..heartbeat })))
}

pub(in crate::http) async fn heartbeat(State(api): State<Api>, request: Request) -> HttpResult<Response> {
    let report = report(&api, request, "heartbeat").await?;
    // Strict parsing is tried first, because it is faster and succeeds for nearly every heartbeat.
    let strict =
        || serde_json::from_slice::<HeartbeatBody<'_>>(&report.body).ok().and_then(HeartbeatBody::clamped);
    let strict = if report.cut { None } else { strict() };
    let read = match strict {
        Some((id, heartbeat)) => Some((Named::InBody(id), heartbeat)),
        None => lenient_heartbeat(&report.body, report.cut),
    };
    let (id, heartbeat) = read.ok_or_else(|| report.refused(&api))?;
    let token_owner = report.verified_owner(&api, &id).await?;
    api.pace(token_owner.workspace).await;
    let writing = api.0.listening.writing(&api.0.clock);
    let result = api.0.store.record_heartbeat(token_owner, heartbeat, api.0.clock.now()).await;
    drop(writing);
    answered(result.map_err(reset_liveness(&api))?)?;
    api.0.refusals.forget(token_owner.workspace);
    Ok(json(r#"{"status":"ok"}"#))
}
