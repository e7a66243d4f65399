//! The content of a heartbeat, and the status changes that follow from it (wire protocol, §4).
//!
//! Runtimes do not read the answers to their heartbeats, so ostler cannot ask an agent anything in an answer. It learns
//! from the heartbeats alone that the agent is alive, how healthy it is, and what its current task is.

use super::{
    status::{Cause, Failure, Status},
    token::TokenKind,
    workspace::Kind,
};

/// An agent with this error rate or a higher one is degraded.
pub const DEGRADED_ERROR_RATE: f64 = 0.5;
/// A degraded agent recovers if its error rate is lower than this. The value is lower than `DEGRADED_ERROR_RATE`, so
/// that the status does not alternate.
pub const WELL_ERROR_RATE: f64 = 0.1;
/// Largest spend that a heartbeat may report, in cents.
pub const SPEND_MAX_CENTS: i64 = 1_000_000_000_000;
/// The `runtime_state` of an agent that reports itself as stuck.
pub const WEDGED: &str = "wedged";

/// A heartbeat, clamped to the allowed ranges.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Heartbeat {
    /// Share of its recent requests that failed, 0 to 1.
    pub error_rate: f64,
    /// One of its recent errors.
    pub sample_error: String,
    /// Number of tasks in progress.
    pub active_tasks: u32,
    /// Uptime in seconds; 0 keeps the stored value.
    pub uptime_seconds: i64,
    /// Description of the current task.
    pub current_task: String,
    /// Spend of this month in cents; 0 keeps the stored value.
    pub monthly_spend_cents: i64,
    /// Empty if the agent is healthy; otherwise `wedged`, or a word that the runtime defines.
    pub runtime_state: String,
    /// The runtime's metadata; `None` keeps the stored value.
    pub metadata: Option<Metadata>,
    /// Fields that this heartbeat does not provide; their stored values are kept.
    pub unknown: Fields,
    /// Fields that were sent but could not be used. Shown to the operator.
    pub refused: Fields,
}

/// A field of a heartbeat or a register that can be refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Field {
    /// Field of a heartbeat.
    ErrorRate,
    /// Field of a heartbeat.
    SampleError,
    /// Field of a heartbeat.
    ActiveTasks,
    /// Field of a heartbeat.
    UptimeSeconds,
    /// Field of a heartbeat.
    CurrentTask,
    /// Field of a heartbeat.
    MonthlySpend,
    /// Field of a heartbeat.
    RuntimeState,
    /// Field of a heartbeat.
    RuntimeMetadata,
    /// The whole body of a heartbeat: too large or truncated.
    Body,
    /// Field of a register.
    Url,
    /// Field of a register.
    AgentCard,
}

impl Field {
    /// Every field.
    pub const ALL: [Self; 11] = [
        Self::ErrorRate,
        Self::SampleError,
        Self::ActiveTasks,
        Self::UptimeSeconds,
        Self::CurrentTask,
        Self::MonthlySpend,
        Self::RuntimeState,
        Self::RuntimeMetadata,
        Self::Body,
        Self::Url,
        Self::AgentCard,
    ];

    /// The name in the wire protocol.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ErrorRate => "error_rate",
            Self::SampleError => "sample_error",
            Self::ActiveTasks => "active_tasks",
            Self::UptimeSeconds => "uptime_seconds",
            Self::CurrentTask => "current_task",
            Self::MonthlySpend => "monthly_spend",
            Self::RuntimeState => "runtime_state",
            Self::RuntimeMetadata => "runtime_metadata",
            Self::Body => "body",
            Self::Url => "url",
            Self::AgentCard => "agent_card",
        }
    }
}

/// A set of fields. Stored and shown as the names, joined by `, `.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fields(u16);

impl Fields {
    /// The fields of a register request. All other fields belong to a heartbeat.
    pub const OF_REGISTER: Self = Self(1 << Field::Url as u16 | 1 << Field::AgentCard as u16);

    /// Adds a field to the set.
    pub fn insert(&mut self, field: Field) {
        self.0 |= 1 << field as u16;
    }

    /// Whether the set contains the field.
    #[must_use]
    pub fn contains(self, field: Field) -> bool {
        self.0 & (1 << field as u16) != 0
    }

    /// Whether the set is empty.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns the set after a heartbeat with these refused fields. The fields of the register request are unchanged.
    #[must_use]
    pub fn after_heartbeat(self, refused: Self) -> Self {
        Self((self.0 & Self::OF_REGISTER.0) | (refused.0 & !Self::OF_REGISTER.0))
    }

    /// Returns the set after a register request with these refused fields. The fields of the heartbeat are unchanged.
    #[must_use]
    pub fn after_register(self, refused: Self) -> Self {
        Self((self.0 & !Self::OF_REGISTER.0) | (refused.0 & Self::OF_REGISTER.0))
    }

    /// The names, in the order of the wire protocol.
    #[must_use]
    pub fn names(self) -> Vec<&'static str> {
        Field::ALL.into_iter().filter(|field| self.contains(*field)).map(Field::as_str).collect()
    }

    /// Parses the stored form. Unknown names, which another version of ostler may have stored, are ignored.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut fields = Self::default();
        for name in text.split(", ") {
            if let Some(field) = Field::ALL.into_iter().find(|field| field.as_str() == name) {
                fields.insert(field);
            }
        }
        fields
    }
}

impl std::fmt::Display for Fields {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.names().join(", "))
    }
}

/// Metadata that a runtime reports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// JSON as it was sent.
    pub json: String,
    /// Whether the runtime has the capability `status_mgmt`: it determines its own health, and its error rate does not
    /// make it degraded.
    pub manages_status: bool,
}

impl Heartbeat {
    /// Whether this is the short heartbeat that runtimes send when their task changes. It contains no information about
    /// their health.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        self.error_rate <= 0.0
            && self.sample_error.is_empty()
            && self.uptime_seconds == 0
            && self.metadata.is_none()
    }

    fn reports_degraded(&self, manages_status: bool) -> bool {
        self.runtime_state == WEDGED || (self.error_rate >= DEGRADED_ERROR_RATE && !manages_status)
    }

    fn reports_healthy(&self) -> bool {
        let known = !self.unknown.contains(Field::ErrorRate) && !self.unknown.contains(Field::RuntimeState);
        known && self.error_rate < WELL_ERROR_RATE && self.runtime_state.is_empty() && !self.is_partial()
    }
}

/// The workspace that a heartbeat belongs to, and how it was authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Status in the row.
    pub status: Status,
    /// Container or external.
    pub kind: Kind,
    /// Kind of the token that authenticated the heartbeat.
    pub token: TokenKind,
    /// Whether the runtime determines its own health (capability `status_mgmt`).
    pub manages_status: bool,
}

/// The status changes that follow from a heartbeat, in order. For example, an agent whose first heartbeat reports
/// errors becomes online, and then degraded.
///
/// A heartbeat with an `api` token of a container workspace changes nothing: the token belongs to no incarnation, so
/// the sender may be an old process.
#[must_use]
pub fn moves(standing: Standing, heartbeat: &Heartbeat) -> Vec<Cause> {
    if standing.kind == Kind::Container && standing.token == TokenKind::Api {
        return Vec::new();
    }
    let degraded = heartbeat.reports_degraded(standing.manages_status);
    match standing.status {
        Status::Provisioning
        | Status::Offline
        | Status::AwaitingAgent
        | Status::Failed(Failure::ProvisionTimeout) => {
            let mut moves = vec![Cause::HeartbeatReceived];
            if degraded {
                moves.push(Cause::ReportedDegraded);
            }
            moves
        }
        Status::Online if degraded => vec![Cause::ReportedDegraded],
        Status::Degraded if heartbeat.reports_healthy() => vec![Cause::HeartbeatReceived],
        Status::Online
        | Status::Degraded
        | Status::Failed(Failure::StartError | Failure::Parked)
        | Status::Paused
        | Status::Hibernating
        | Status::Hibernated
        | Status::Removed => Vec::new(),
    }
}

/// The status changes that follow from a register request. They are those of a healthy heartbeat without the recovery
/// from `degraded`, because a register request contains no error rate.
#[must_use]
pub fn moves_of_register(standing: Standing) -> Vec<Cause> {
    moves(standing, &Heartbeat::default())
}

/// Truncates a text to at most `most_bytes` bytes, at a character boundary.
#[must_use]
pub fn cut(mut text: String, most_bytes: usize) -> String {
    if text.len() > most_bytes {
        let end = (0..=most_bytes).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(status: Status) -> Standing {
        Standing { status, kind: Kind::Container, token: TokenKind::Instance, manages_status: false }
    }

    fn well() -> Heartbeat {
        Heartbeat { uptime_seconds: 5, ..Heartbeat::default() }
    }

    #[test]
    fn healthy_heartbeat_sets_online_from_exactly_allowed_statuses() {
        for status in Status::ALL {
            let recovers = moves(standing(status), &well()).contains(&Cause::HeartbeatReceived);
            assert_eq!(recovers, Cause::HeartbeatReceived.sources().contains(&status), "{status}");
        }
    }

    #[test]
    fn heartbeat_causes_only_allowed_transitions() {
        let wedged = Heartbeat { runtime_state: WEDGED.into(), ..well() };
        for status in Status::ALL {
            for heartbeat in [&well(), &Heartbeat::default(), &wedged] {
                let mut now = status;
                for cause in moves(standing(status), heartbeat) {
                    assert!(cause.sources().contains(&now), "{cause:?} from {now}");
                    now = cause.target();
                }
            }
        }
    }

    #[test]
    fn api_token_heartbeat_of_container_workspace_changes_nothing() {
        for status in Status::ALL {
            let of_operator = Standing { token: TokenKind::Api, ..standing(status) };
            assert_eq!(moves(of_operator, &well()), [], "{status}");
            let external = Standing { kind: Kind::External, ..of_operator };
            assert_eq!(moves(external, &well()), moves(standing(status), &well()), "{status}");
        }
    }

    #[test]
    fn unhealthy_heartbeat_degrades_and_only_healthy_one_recovers() {
        let failing = Heartbeat { error_rate: 0.5, ..well() };
        let wedged = Heartbeat { runtime_state: WEDGED.into(), ..well() };
        let odd = Heartbeat { runtime_state: "resting".into(), ..well() };
        let between = Heartbeat { error_rate: 0.3, ..well() };
        assert_eq!(moves(standing(Status::Online), &failing), [Cause::ReportedDegraded]);
        assert_eq!(moves(standing(Status::Online), &wedged), [Cause::ReportedDegraded]);
        assert_eq!(moves(standing(Status::Online), &odd), []);
        assert_eq!(moves(standing(Status::Online), &between), []);
        for heartbeat in [&failing, &wedged, &odd, &between, &Heartbeat::default()] {
            assert_eq!(
                moves(standing(Status::Degraded), heartbeat),
                [],
                "{heartbeat:?} must not end the status degraded"
            );
        }
        assert_eq!(moves(standing(Status::Degraded), &well()), [Cause::HeartbeatReceived]);
        let managing = Standing { manages_status: true, ..standing(Status::Online) };
        assert_eq!(moves(managing, &failing), []);
        assert_eq!(moves(managing, &wedged), [Cause::ReportedDegraded]);
    }

    #[test]
    fn heartbeat_with_unreadable_health_does_not_clear_degraded() {
        for field in [Field::ErrorRate, Field::RuntimeState] {
            let mut heartbeat = well();
            heartbeat.unknown.insert(field);
            assert_eq!(moves(standing(Status::Degraded), &heartbeat), [], "{field:?}");
            assert_eq!(
                moves(standing(Status::Offline), &heartbeat),
                [Cause::HeartbeatReceived],
                "the agent is alive"
            );
        }
    }

    #[test]
    fn refused_fields_of_register_and_heartbeat_are_kept_apart() {
        let mut fields = Fields::default();
        for field in Field::ALL {
            fields.insert(field);
            assert_eq!(Fields::parse(&fields.to_string()), fields);
        }
        assert_eq!(Fields::parse(""), Fields::default());
        assert_eq!(fields.after_heartbeat(Fields::default()).names(), ["url", "agent_card"]);
        assert!(!fields.after_register(Fields::default()).contains(Field::AgentCard));
    }

    #[test]
    fn first_heartbeat_with_errors_sets_online_and_then_degraded() {
        let failing = Heartbeat { error_rate: 1.0, ..well() };
        assert_eq!(
            moves(standing(Status::Provisioning), &failing),
            [Cause::HeartbeatReceived, Cause::ReportedDegraded]
        );
    }

    #[test]
    fn text_is_truncated_at_a_character_boundary() {
        assert_eq!(cut("aé".into(), 2), "a");
        assert_eq!(cut("aé".into(), 3), "aé");
    }
}
