//! Converts domain types into the wire types of `api`.

use crate::{
    api::{
        event::{EventView, TransientEventView},
        spec::SpecView,
        sweep::{ActionView, HeldPlan, PassRun, PassView},
        token::TokenView,
        trash::TrashView,
        workspace::WorkspaceView,
    },
    domain::{
        event::{Event, TransientEvent},
        plan::Planned,
        status::{Failure, Status},
        time::Timestamp,
        token::TokenRow,
        trash::TrashEntry,
        workspace::{Delivery, Kind, Workspace},
    },
    engine::DiskUsage,
    ops::Ops,
    store::{Described, HeldPlanRow},
    sweep::{ActionRun, PassStatus, Run, Verdict},
};

fn text(at: Timestamp) -> String {
    at.to_string()
}

pub(super) fn workspace(described: Described, ops: &Ops) -> WorkspaceView {
    let Described { row, vitals } = described;
    let row: &Workspace = &row;
    let up = matches!(row.status, Status::Online | Status::Degraded);
    let own_url = row.host_port.filter(|_| up).map(|port| format!("http://127.0.0.1:{port}"));
    WorkspaceView {
        id: row.id.to_string(),
        name: row.name.to_string(),
        role: row.spec.role.clone(),
        tier: row.spec.tier.number(),
        status: row.status.as_str().into(),
        failure: row.status.failure().map(Failure::as_str).map(Into::into),
        status_detail: ops.paused_by_hand(row).or_else(|| row.status_detail.clone()),
        status_since: text(row.status_since),
        url: row.spec.url.clone().or(own_url),
        parent_id: row.spec.parent.map(|id| id.to_string()),
        runtime: row.spec.runtime.clone(),
        external: row.kind == Kind::External,
        image: Some(row.spec.image.clone()).filter(|image| !image.is_empty()),
        incarnation: row.incarnation.0,
        container_id: row.container.as_ref().map(ToString::to_string),
        host_port: row.host_port,
        drifted: ops.drifted(row),
        operation: ops.progress(row.id),
        created_at: text(row.created_at),
        removed_at: row.removed_at.map(text),
        active_tasks: vitals.active_tasks,
        max_concurrent_tasks: row.spec.max_concurrent_tasks,
        last_error_rate: vitals.error_rate,
        last_sample_error: Some(vitals.sample_error),
        uptime_seconds: vitals.uptime_seconds,
        current_task: Some(vitals.current_task),
        monthly_spend: vitals.monthly_spend_cents,
        runtime_state: vitals.runtime_state,
        agent_card: vitals.agent_card,
        last_heartbeat_at: vitals.last_heartbeat_at.map(text),
        last_activity_at: vitals.last_activity_at.map(text),
        wedged_since: vitals.wedged_since.map(text),
        fields_refused: vitals.refused.names().into_iter().map(Into::into).collect(),
        restart_due_at: row.restart_due_at.map(text),
        hibernation_idle_minutes: row.spec.hibernation_idle_minutes,
        restart_when_wedged: row.spec.restart_when_wedged,
        port_note: None,
        limits_note: None,
        spec: SpecView::default(),
        config_pending: false,
        delivery_mode: (row.delivery == Delivery::Poll).then(|| row.delivery.as_str().into()),
    }
}

pub(super) fn token(row: &TokenRow) -> TokenView {
    TokenView {
        id: row.id.to_string(),
        prefix: row.prefix.clone(),
        kind: row.kind.as_str().into(),
        created_at: text(row.created_at),
        last_used_at: row.last_used_at.map(text),
        expires_at: row.expires_at.map(text),
    }
}

pub(super) fn trash(entry: &TrashEntry, usage: Option<&DiskUsage>) -> TrashView {
    TrashView {
        id: entry.id.to_string(),
        workspace_id: entry.workspace.to_string(),
        workspace_name: entry.workspace_name.clone(),
        reason: entry.reason.as_str().into(),
        evidence: entry.evidence.clone(),
        container_id: entry.contents.container.as_ref().map(|container| container.id.to_string()),
        volumes: entry.contents.volumes.clone(),
        size_bytes: usage.map(|usage| usage.of(&entry.contents)),
        state: entry.state.as_str().into(),
        created_at: text(entry.created_at),
        keep_until: text(entry.keep_until),
    }
}

pub(super) fn event(event: Event) -> EventView {
    EventView {
        id: event.id,
        event_type: event.event_type,
        workspace_id: event.workspace_id.map(|id| id.to_string()),
        payload: event.payload,
        created_at: text(event.created_at),
    }
}

pub(super) fn transient(transient: TransientEvent) -> TransientEventView {
    TransientEventView {
        event_type: transient.kind.as_str().into(),
        workspace_id: transient.workspace_id.to_string(),
        payload: transient.payload,
        created_at: text(transient.created_at),
    }
}

fn action(planned: &Planned, result: &str, detail: Option<String>) -> ActionView {
    ActionView {
        action: planned.action.describe(),
        workspace: planned.name.clone(),
        evidence: planned.evidence.clone(),
        result: result.into(),
        detail,
    }
}

fn action_run(run: &ActionRun) -> ActionView {
    let (result, detail) = match &run.verdict {
        Verdict::Planned => ("planned", None),
        Verdict::Applied(detail) => ("applied", Some(detail.clone())),
        Verdict::Raced(why) => ("raced", Some(why.clone())),
        Verdict::Failed(why) => ("failed", Some(why.clone())),
        Verdict::Held => ("held", None),
    };
    action(&run.planned, result, detail)
}

/// Converts a run of a pass, for the daemon's responses and for a dry run without a daemon.
pub(crate) fn run(run: &Run) -> PassRun {
    PassRun {
        pass: run.pass.into(),
        started_at: text(run.started_at),
        took_ms: u64::try_from(run.took.as_millis()).unwrap_or(u64::MAX),
        outcome: run.outcome.as_str().into(),
        detail: run.outcome.detail(),
        actions: run.actions.iter().map(action_run).collect(),
        watching: run.watching.clone(),
        left_over: run.left_over,
    }
}

pub(super) fn held(row: &HeldPlanRow) -> HeldPlan {
    let result = if row.approved_at.is_some() { "approved" } else { "held" };
    let plan: Vec<Planned> = serde_json::from_value(row.plan.clone()).unwrap_or_default();
    HeldPlan {
        id: row.id.to_string(),
        pass: row.pass.clone(),
        reason: row.reason.clone(),
        held_at: text(row.held_at),
        actions: plan.iter().map(|planned| action(planned, result, None)).collect(),
    }
}

pub(super) fn pass(status: &PassStatus, held_plan: Option<&HeldPlanRow>) -> PassView {
    PassView {
        name: status.name.into(),
        summary: status.summary.into(),
        period_seconds: status.period.as_secs(),
        running: status.running,
        last: status.last.as_ref().map(run),
        held: held_plan.map(held),
    }
}
