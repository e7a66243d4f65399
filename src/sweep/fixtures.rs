//! Rows for the tests of the passes.

use std::time::Duration;

use uuid::Uuid;

use crate::domain::{
    ids::{Incarnation, WorkspaceId},
    runtime::Readiness,
    status::Status,
    sweep_row::{QuietRow, SweepRow},
    time::Timestamp,
    workspace::Kind,
};

pub(super) const NOW: Timestamp = Timestamp(1_700_000_000_000);

pub(super) fn row(status: Status) -> SweepRow {
    SweepRow {
        id: WorkspaceId(Uuid::from_u128(1)),
        name: "one".into(),
        status,
        container: None,
        incarnation: Incarnation(1),
        status_since: NOW - Duration::from_hours(9),
        runtime: "agent".into(),
    }
}

pub(super) fn quiet(status: Status, for_: Duration) -> QuietRow {
    QuietRow {
        row: row(status),
        kind: Kind::Container,
        heartbeat_at: Some(NOW - for_),
        active_tasks: 0,
        active_at: None,
        wedged_since: None,
        restart_when_wedged: false,
    }
}

pub(super) fn since(then: Timestamp) -> Duration {
    NOW.since(then)
}

pub(super) fn heartbeat(_: &str) -> Readiness {
    Readiness::Heartbeat
}
