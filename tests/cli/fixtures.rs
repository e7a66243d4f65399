//! Test data for the fake daemon. Its times are so old that ages are shown as dates, which stay the same.

use ostler::api::{
    adoption::{AdoptItem, AdoptOutcome},
    doctor::{Check, DoctorReport},
    event::EventView,
    operation::OperationView,
    spec::SpecView,
    sweep::{ActionView, HeldPlan, PassRun, PassView},
    token::{TokenList, TokenView},
    trash::TrashView,
    workspace::{Connection, WorkspaceView},
};
use serde_json::{Value, json};

pub(super) const BUILDER: &str = "6f1c0c5e-0d0f-4c58-9b0e-0a4c1b7e2d11";
pub(super) const TESTER: &str = "7a2d1d6f-1e10-4d69-8c1f-1b5d2c8f3e22";
const CONTAINER: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

pub(super) fn operation(id: i64, kind: &str, state: &str, detail: Option<&str>) -> OperationView {
    let at = || Some("2020-03-04T05:06:07.890Z".to_owned());
    let ended = matches!(state, "done" | "skipped" | "failed" | "cancelled");
    OperationView {
        id,
        kind: kind.into(),
        workspace_id: BUILDER.into(),
        workspace_name: "builder".into(),
        requested_by: "operator".into(),
        state: state.into(),
        progress: (state == "running").then(|| "start: pulling image alpine".into()),
        detail: detail.map(Into::into),
        cancel_requested: false,
        revision: 4,
        created_at: "2020-03-04T05:06:07.890Z".into(),
        started_at: at().filter(|_| state != "accepted"),
        ended_at: at().filter(|_| ended),
    }
}

pub(super) fn workspace(id: &str, name: &str, status: &str) -> WorkspaceView {
    WorkspaceView {
        id: id.into(),
        name: name.into(),
        role: None,
        tier: 2,
        status: status.into(),
        failure: None,
        status_detail: None,
        status_since: "2020-03-04T05:06:07.890Z".into(),
        url: None,
        parent_id: None,
        runtime: "plain".into(),
        external: false,
        image: Some("docker.io/library/alpine:3".into()),
        incarnation: 1,
        container_id: Some(CONTAINER.into()),
        host_port: None,
        drifted: false,
        operation: None,
        created_at: "2020-03-01T00:00:00.000Z".into(),
        removed_at: None,
        active_tasks: 0,
        max_concurrent_tasks: None,
        last_error_rate: 0.0,
        last_sample_error: Some(String::new()),
        uptime_seconds: 0,
        current_task: Some(String::new()),
        monthly_spend: 0,
        runtime_state: String::new(),
        agent_card: None,
        last_heartbeat_at: None,
        last_activity_at: None,
        wedged_since: None,
        fields_refused: Vec::new(),
        restart_due_at: None,
        hibernation_idle_minutes: None,
        restart_when_wedged: false,
        port_note: None,
        limits_note: None,
        spec: SpecView::default(),
        config_pending: false,
        delivery_mode: None,
    }
}

pub(super) fn builder(status: &str) -> WorkspaceView {
    WorkspaceView {
        url: Some("http://127.0.0.1:21000".into()),
        host_port: Some(21000),
        role: Some("builds things".into()),
        ..workspace(BUILDER, "builder", status)
    }
}

/// A failed workspace below `builder`.
pub(super) fn tester() -> WorkspaceView {
    WorkspaceView {
        parent_id: Some(BUILDER.into()),
        failure: Some("parked".into()),
        status_detail: Some("5 restarts in 30 minutes; the last exit code was 137\nout of memory".into()),
        incarnation: 6,
        tier: 3,
        drifted: true,
        ..workspace(TESTER, "tester", "failed")
    }
}

/// A tree with one row of each kind that `ls` prints.
pub(super) fn sample_workspaces() -> Vec<WorkspaceView> {
    let grandchild = "8b3e2e70-2f21-4e7a-9d20-2c6e3d904f33";
    let below = |parent: &str, view: WorkspaceView| WorkspaceView { parent_id: Some(parent.into()), ..view };
    vec![
        WorkspaceView {
            external: true,
            runtime: "external".into(),
            image: None,
            container_id: None,
            ..workspace("9c4f3f81-3032-4f8b-8e31-3d7f4ea15044", "phone", "awaiting_agent")
        },
        below(
            BUILDER,
            WorkspaceView {
                drifted: true,
                ..workspace("ad50a092-4143-4a9c-9f42-4e80afb26155", "writer", "paused")
            },
        ),
        tester(),
        below(
            TESTER,
            WorkspaceView {
                operation: Some("start: pulling image docker.io/library/alpine:3".into()),
                ..workspace(grandchild, "night shift", "provisioning")
            },
        ),
        builder("online"),
        below(
            "00000000-0000-4000-8000-000000000000",
            workspace("be61b1a3-5254-4bad-a053-5f91b0c37266", "orphan", "hibernated"),
        ),
    ]
}

pub(super) fn event(id: i64, event_type: &str, payload: Value) -> EventView {
    EventView {
        id,
        event_type: event_type.into(),
        workspace_id: Some(TESTER.into()),
        payload,
        created_at: format!("2020-03-04T05:06:{id:02}.500Z"),
    }
}

/// Events, newest first, as the daemon returns them.
pub(super) fn sample_events() -> Vec<EventView> {
    vec![
        event(4, "WORKSPACE_PARKED", json!({ "exits": 5, "reason": "5 restarts in 30 minutes" })),
        event(
            3,
            "WORKSPACE_OFFLINE",
            json!({
                "evidence": "its container was gone in two listings, 30 s apart", "exit_code": 137, "oom": true,
                "log_tail": ["compiling…", "\u{1b}[31mKilled\u{1b}[0m"],
            }),
        ),
        event(2, "WORKSPACE_ONLINE", json!({ "url": "http://127.0.0.1:21001" })),
        event(1, "WORKSPACE_PROVISIONING", json!({ "incarnation": 1 })),
    ]
}

pub(super) fn trash() -> Vec<TrashView> {
    let entry = |id: &str, name: &str, reason: &str, volumes: &[&str]| TrashView {
        id: id.into(),
        workspace_id: TESTER.into(),
        workspace_name: name.into(),
        reason: reason.into(),
        evidence: "unknown to the registry and the trash for 10m, in two listings".into(),
        container_id: Some(CONTAINER.into()),
        volumes: volumes.iter().map(|&volume| volume.into()).collect(),
        state: "kept".into(),
        created_at: "2020-03-04T05:06:07.890Z".into(),
        size_bytes: Some(5 << 20),
        keep_until: "2020-03-18T05:06:07.890Z".into(),
    };
    vec![
        entry("0b5e1111-0000-4000-8000-000000000001", "tester", "removed", &["config", "work"]),
        entry("1c6f2222-0000-4000-8000-000000000002", "stray", "unknown", &[]),
    ]
}

pub(super) fn tokens() -> TokenList {
    let token = |id: &str, kind: &str, used: Option<&str>| TokenView {
        id: id.into(),
        prefix: "AbCdEfGh".into(),
        kind: kind.into(),
        created_at: "2020-03-04T05:06:07.890Z".into(),
        last_used_at: used.map(Into::into),
        expires_at: None,
    };
    TokenList {
        tokens: vec![
            token("41d01111-0000-4000-8000-000000000001", "instance", Some("2020-03-05T00:00:00.000Z")),
            token("52e12222-0000-4000-8000-000000000002", "api", None),
        ],
        count: 2,
    }
}

fn action(result: &str) -> ActionView {
    ActionView {
        action: "move container 0123456789ab to the trash".into(),
        workspace: "tester".into(),
        evidence: "unknown to the registry for 10m, in two listings".into(),
        result: result.into(),
        detail: None,
    }
}

pub(super) fn pass_run(pass: &str, outcome: &str, result: &str) -> PassRun {
    PassRun {
        pass: pass.into(),
        started_at: "2020-03-04T05:06:07.890Z".into(),
        took_ms: 12,
        outcome: outcome.into(),
        detail: None,
        actions: vec![action(result)],
        watching: vec!["container fedcba987654, unknown for 4m".into()],
        left_over: 2,
    }
}

pub(super) fn held() -> HeldPlan {
    HeldPlan {
        id: "9a3c1111-0000-4000-8000-000000000001".into(),
        pass: "reap_unknown".into(),
        reason: "it would affect 4 of 6 workspaces; at most 3 are allowed within an hour".into(),
        held_at: "2020-03-04T05:06:07.890Z".into(),
        actions: vec![action("held")],
    }
}

pub(super) fn passes() -> Vec<PassView> {
    let pass = |name: &str, period_seconds, last, held| PassView {
        name: name.into(),
        summary: "moves unknown containers and volumes to the trash".into(),
        period_seconds,
        running: false,
        last,
        held,
    };
    vec![
        pass("reap_removed", 60, Some(pass_run("reap_removed", "done", "applied")), None),
        pass("reap_unknown", 60, Some(pass_run("reap_unknown", "held", "held")), Some(held())),
        pass("empty_trash", 3600, None, None),
        pass(
            "settle",
            30,
            Some(PassRun {
                detail: Some("the sentinel volume is gone".into()),
                actions: vec![],
                watching: vec![],
                left_over: 0,
                ..pass_run("settle", "untrusted", "")
            }),
            None,
        ),
    ]
}

pub(super) fn doctor(verdict: &str) -> DoctorReport {
    let check = |name: &str, verdict: &str, found: &str, advice: Option<&str>| Check {
        name: name.into(),
        verdict: verdict.into(),
        found: found.into(),
        advice: advice.map(Into::into),
    };
    DoctorReport {
        checks: vec![
            check("engine", "ok", "Podman 5.4.2 answers", None),
            check(
                "linger",
                "warn",
                "containers stop when this user logs out",
                Some("run `loginctl enable-linger`"),
            ),
            check(
                "disk",
                verdict,
                "3 % of the data directory's disk is free",
                Some("make room\nor move `data_dir`"),
            ),
        ],
    }
}

pub(super) fn adoption(adopted: bool) -> AdoptOutcome {
    AdoptOutcome {
        items: vec![AdoptItem {
            workspace_id: TESTER.into(),
            name: "tester".into(),
            container_id: Some(CONTAINER.into()),
            volumes: vec!["config".into(), "work".into()],
            adopted,
            detail: "role, parent and image from its labels; later renames are lost".into(),
        }],
        recovering: true,
    }
}

pub(super) fn connection() -> Connection {
    Connection {
        workspace_id: BUILDER.into(),
        platform_url: "http://192.168.1.10:7717".into(),
        auth_token: "AbCdEfGhIjKlMnOpQrStUvWxYzAbCdEfGhIjKlMnOpQ".into(),
        registry_endpoint: "http://192.168.1.10:7717/registry/register".into(),
        heartbeat_endpoint: "http://192.168.1.10:7717/registry/heartbeat".into(),
    }
}
