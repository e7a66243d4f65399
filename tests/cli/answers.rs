//! The output of each query command, as text and as JSON.

use insta::assert_snapshot;
use ostler::api::{
    operation::OperationView, sweep::HeldPlan, token::IssuedToken, trash::TrashOutcome,
    workspace::WorkspaceView,
};
use serde_json::json;

use super::fixtures;
use crate::support::cli::FakeDaemon;

/// Takes snapshots of `args` and of `args --json`.
macro_rules! both {
    ($daemon:expr, $name:literal, $args:expr) => {
        assert_snapshot!($name, $daemon.run(&$args).transcript());
        let json: Vec<&str> = $args.into_iter().chain(["--json"]).collect();
        assert_snapshot!(concat!($name, "_json"), $daemon.run(&json).transcript());
    };
}

#[test]
fn ls_shows_the_tree() {
    let daemon = FakeDaemon::start();
    daemon.answers("GET /workspaces", 200, &fixtures::sample_workspaces());
    both!(daemon, "ls", ["ls"]);
    assert_snapshot!("ls_flat", daemon.run(&["ls", "--flat"]).transcript());
}

#[test]
fn ls_shows_removed_workspaces_with_removed_flag() {
    let daemon = FakeDaemon::start();
    let removed =
        WorkspaceView { removed_at: Some("2020-03-04T05:06:07.890Z".into()), ..fixtures::builder("removed") };
    daemon.answers("GET /workspaces?removed=true", 200, &[removed]);
    assert_snapshot!("ls_removed", daemon.run(&["ls", "--removed"]).transcript());
}

#[test]
fn ls_suggests_adopt_when_registry_was_lost() {
    let daemon = FakeDaemon::start();
    daemon.answers_bytes("GET /workspaces", 200, b"[]");
    let item =
        br#"{"workspace_id":"6f1c0c5e-0d0f-4c58-9b0e-0a4c1b7e2d11","name":"builder","container_id":null,
                    "volumes":[],"adopted":true,"detail":""}"#;
    let outcome = [&br#"{"items":["#[..], item, br#"],"recovering":true}"#].concat();
    daemon.answers_bytes("POST /adopt", 200, &outcome);
    let stderr = daemon.run(&["ls"]).stderr;
    for expected in ["recovering", "1 workspace that it does not know", "ostler adopt --all", "ostler doctor"]
    {
        assert!(stderr.contains(expected), "no {expected:?} in {stderr}");
    }
    assert!(!stderr.contains("ostler create"), "a lost registry is reported as a new one: {stderr}");

    let daemon = FakeDaemon::start();
    daemon.answers_bytes("GET /workspaces", 200, b"[]");
    daemon.answers_bytes("POST /adopt", 500, br#"{"error":"the engine gave no answer"}"#);
    let stderr = daemon.run(&["ls"]).stderr;
    assert!(stderr.contains("could not be listed") && stderr.contains("ostler doctor"), "{stderr}");
}

#[test]
fn ls_reports_that_registry_is_recovering() {
    let daemon = FakeDaemon::start();
    daemon.answers("GET /workspaces", 200, &fixtures::sample_workspaces());
    daemon.answers_bytes("GET /ready", 200, br#"{"status":"ready"}"#);
    assert_eq!(daemon.run(&["ls"]).stderr, "");

    let daemon = FakeDaemon::start();
    daemon.answers("GET /workspaces", 200, &fixtures::sample_workspaces());
    daemon.answers_bytes("GET /ready", 200, br#"{"status":"ready","recovering":true}"#);
    let ls = daemon.run(&["ls"]);
    for expected in ["recovering", "ostler adopt --dry-run"] {
        assert!(ls.stderr.contains(expected), "no {expected:?} in {}", ls.stderr);
    }
    assert_eq!(ls.stderr.lines().count(), 1, "{}", ls.stderr);
}

#[test]
fn ls_suggests_create_when_there_are_no_workspaces() {
    let daemon = FakeDaemon::start();
    daemon.answers_bytes("GET /workspaces", 200, b"[]");
    daemon.answers_bytes("POST /adopt", 200, br#"{"items":[],"recovering":false}"#);
    both!(daemon, "ls_empty", ["ls"]);
}

#[test]
fn show_prints_all_details_of_a_workspace() {
    let daemon = FakeDaemon::start();
    daemon.answers("GET /workspaces/tester?removed=true", 200, &fixtures::tester());
    daemon.answers(&format!("GET /workspaces/{}", fixtures::BUILDER), 200, &fixtures::builder("online"));
    both!(daemon, "show", ["show", "tester"]);
}

#[test]
fn why_prints_event_timeline_with_evidence() {
    let daemon = FakeDaemon::start();
    daemon.answers("GET /workspaces/tester?removed=true", 200, &fixtures::tester());
    daemon.answers(&format!("GET /events/{}?limit=30", fixtures::TESTER), 200, &fixtures::sample_events());
    both!(daemon, "why", ["why", "tester"]);
    insta::assert_snapshot!("why_verbose", daemon.run(&["why", "-v", "tester"]).transcript());
}

#[test]
fn events_are_listed_oldest_first_with_workspace_names() {
    let daemon = FakeDaemon::start();
    daemon.answers("GET /events?limit=20", 200, &fixtures::sample_events());
    daemon.answers(&format!("GET /workspaces/{}", fixtures::TESTER), 200, &fixtures::tester());
    both!(daemon, "events", ["events"]);
}

#[test]
fn trash_ls_lists_entries_with_expiry_time() {
    let daemon = FakeDaemon::start();
    daemon.answers("GET /trash", 200, &fixtures::trash());
    both!(daemon, "trash_ls", ["trash", "ls"]);
}

#[test]
fn trash_restore_reports_its_outcome() {
    let daemon = FakeDaemon::start();
    let outcome = |done, detail: &str| TrashOutcome {
        accepted: false,
        operation_id: Some(7),
        id: "0b5e1111-0000-4000-8000-000000000001".into(),
        workspace_name: "tester".into(),
        done,
        detail: detail.into(),
    };
    daemon.answers(
        "POST /trash/0b5e/restore",
        200,
        &outcome(true, "container and 2 volumes restored; it is paused"),
    );
    both!(daemon, "trash_restore", ["trash", "restore", "0b5e"]);
    daemon.answers("POST /trash/1c6f/restore", 200, &outcome(false, "it is being deleted already"));
    assert_snapshot!("trash_restore_refused", daemon.run(&["trash", "restore", "1c6f"]).transcript());
}

#[test]
fn trash_empty_requires_yes_flag_without_terminal() {
    let daemon = FakeDaemon::start();
    let outcome = |id: &str, done, detail: &str| TrashOutcome {
        accepted: false,
        operation_id: Some(7),
        id: id.into(),
        workspace_name: "tester".into(),
        done,
        detail: detail.into(),
    };
    let outcomes = [
        outcome("0b5e1111-0000-4000-8000-000000000001", true, "container and 2 volumes deleted"),
        outcome("1c6f2222-0000-4000-8000-000000000002", false, "kept: the volume is in use"),
    ];
    daemon.answers("POST /trash/empty", 200, &outcomes);
    assert_snapshot!("trash_empty_asks", daemon.run(&["trash", "empty"]).transcript());
    assert_eq!(daemon.requests(), [] as [String; 0], "a request was sent before the confirmation");
    both!(daemon, "trash_empty", ["trash", "empty", "--yes"]);
    daemon.run(&["trash", "empty", "0b5e", "--yes"]);
    assert_eq!(daemon.requests().last().unwrap(), r#"POST /trash/empty {"entries":["0b5e"]}"#);
}

#[test]
fn adopt_without_selection_is_a_dry_run() {
    let daemon = FakeDaemon::start();
    daemon.answers("POST /adopt", 200, &fixtures::adoption(true));
    both!(daemon, "adopt_asks", ["adopt"]);
    both!(daemon, "adopt_all", ["adopt", "--all"]);
    let adopt_request = |which: &str, all, dry_run| {
        format!(r#"POST /adopt {{"which":{which},"all":{all},"dry_run":{dry_run},"instance":null}}"#)
    };
    let requests = daemon.requests();
    assert_eq!(requests[0], adopt_request("[]", false, true));
    assert_eq!(requests[2], adopt_request("[]", true, false));
}

#[test]
fn adopt_fails_when_a_workspace_was_not_adopted() {
    let daemon = FakeDaemon::start();
    daemon.answers("POST /adopt", 200, &fixtures::adoption(false));
    assert_snapshot!("adopt_refused", daemon.run(&["adopt", "tester"]).transcript());
    assert_snapshot!("adopt_all_refused", daemon.run(&["adopt", "--all"]).transcript());
}

#[test]
fn token_issue_prints_only_the_token() {
    let daemon = FakeDaemon::start();
    let issued =
        IssuedToken { auth_token: fixtures::connection().auth_token, workspace_id: fixtures::BUILDER.into() };
    daemon.answers("POST /workspaces/builder/tokens", 201, &issued);
    both!(daemon, "token_issue", ["token", "issue", "builder", "--expires", "30d"]);
    assert_eq!(daemon.requests()[0], r#"POST /workspaces/builder/tokens {"expires_in_seconds":2592000}"#);
    assert_eq!(daemon.run(&["token", "issue", "builder"]).stdout, format!("{}\n", issued.auth_token));
}

#[test]
fn token_ls_lists_tokens_and_token_revoke_accepts_id_prefix() {
    let daemon = FakeDaemon::start();
    daemon.answers("GET /workspaces/builder/tokens", 200, &fixtures::tokens());
    daemon.answers(
        "DELETE /workspaces/builder/tokens/41d01111-0000-4000-8000-000000000001",
        200,
        &json!({ "status": "revoked" }),
    );
    both!(daemon, "token_ls", ["token", "ls", "builder"]);
    both!(daemon, "token_revoke", ["token", "revoke", "builder", "41d0"]);
}

#[test]
fn sweep_list_and_show_report_held_plans() {
    let daemon = FakeDaemon::start();
    daemon.answers("GET /sweeps", 200, &fixtures::passes());
    daemon.answers("GET /sweeps/reap_unknown", 200, &fixtures::passes()[1]);
    both!(daemon, "sweep_list", ["sweep", "list"]);
    both!(daemon, "sweep_show", ["sweep", "show", "reap_unknown"]);
}

#[test]
fn sweep_run_prints_each_action_with_evidence() {
    let daemon = FakeDaemon::start();
    daemon.answers("POST /sweeps/run", 200, &[fixtures::pass_run("reap_unknown", "dry_run", "planned")]);
    both!(daemon, "sweep_run", ["sweep", "run", "reap_unknown", "--dry-run"]);
    assert_eq!(daemon.requests()[0], r#"POST /sweeps/run {"passes":["reap_unknown"],"dry_run":true}"#);
}

#[test]
fn sweep_run_fails_when_a_pass_is_held() {
    let daemon = FakeDaemon::start();
    daemon.answers("POST /sweeps/run", 200, &[fixtures::pass_run("reap_unknown", "held", "held")]);
    assert_snapshot!("sweep_run_held", daemon.run(&["sweep", "run"]).transcript());
}

#[test]
fn sweep_approve_prints_the_approved_plan() {
    let daemon = FakeDaemon::start();
    let HeldPlan { pass, .. } = fixtures::held();
    daemon.answers(&format!("POST /sweeps/{pass}/approve"), 200, &fixtures::held());
    both!(daemon, "sweep_approve", ["sweep", "approve", "reap_unknown", "9a3c"]);
    assert_eq!(daemon.requests()[0], r#"POST /sweeps/reap_unknown/approve {"plan_id":"9a3c"}"#);
}

#[test]
fn doctor_fails_only_when_a_check_fails() {
    let daemon = FakeDaemon::start();
    daemon.answers("GET /doctor", 200, &fixtures::doctor("warn"));
    daemon.answers("POST /doctor/accept-engine", 200, &fixtures::doctor("fail"));
    both!(daemon, "doctor", ["doctor"]);
    assert_snapshot!("doctor_fails", daemon.run(&["doctor", "--accept-engine"]).transcript());
}

#[test]
fn cli_command_fails_when_daemon_stops_responding() {
    let home = crate::support::cli::home();
    let socket = std::os::unix::net::UnixListener::bind(home.path().join("ostler.sock")).unwrap();
    let ran = crate::support::cli::run_in(&home, &["ls"], &[], "");
    drop(socket);
    assert_eq!(ran.code, 5, "{}", ran.transcript());
    assert!(ran.transcript().contains("does not respond"), "{}", ran.transcript());
}

#[test]
fn cli_command_runs_with_warning_when_config_file_is_invalid() {
    let daemon = FakeDaemon::start();
    daemon.answers("GET /workspaces", 200, &fixtures::sample_workspaces());
    let location = crate::support::cli::home();
    let file = location.path().join("broken.toml");
    std::fs::write(&file, "[sweep]\nnope = 1\n").unwrap();
    let ran = daemon.run(&["--config", &file.to_string_lossy(), "ls"]);
    assert_eq!(ran.code, 0, "{}", ran.transcript());
    assert!(ran.transcript().contains("unknown key `sweep.nope`"), "{}", ran.transcript());
    assert!(ran.transcript().contains("builder"), "{}", ran.transcript());
}

#[test]
fn operations_are_listed_shown_awaited_and_cancelled() {
    let daemon = FakeDaemon::start();
    let waits = "it continues when Podman answers. Podman does not answer now (connection refused)";
    let by_agent = OperationView {
        requested_by: format!("agent:{}", fixtures::BUILDER),
        ..fixtures::operation(39, "restart", "done", Some("started"))
    };
    let list = [
        fixtures::operation(42, "stop", "accepted", None),
        fixtures::operation(41, "start", "running", None),
        fixtures::operation(40, "start", "waiting", Some(waits)),
        by_agent,
        fixtures::operation(38, "start", "failed", Some("image `alpine:nope` is not on this machine")),
    ];
    daemon.answers("GET /operations?limit=20&open=false", 200, &list);
    both!(daemon, "operations", ["operations"]);
    daemon.answers("GET /operations?limit=5&open=true&workspace=night%20shift", 200, &list[..1]);
    let narrowed = daemon.run(&["ops", "ls", "night shift", "--open", "-n", "5"]);
    assert_eq!(narrowed.code, 0, "{}", narrowed.transcript());
    daemon.answers("GET /operations/41", 200, &list[1]);
    both!(daemon, "operations_show", ["operations", "show", "41"]);
    let done = fixtures::operation(41, "start", "done", Some("started"));
    daemon.answers("GET /operations/41?wait=true", 200, &list[1]).answers(
        "GET /operations/41?wait=true",
        200,
        &done,
    );
    assert_snapshot!("operations_wait", daemon.run(&["operations", "wait", "41"]).transcript());
    daemon.answers("GET /operations/38?wait=true", 200, &list[4]);
    assert_snapshot!("operations_wait_failed", daemon.run(&["operations", "wait", "38"]).transcript());
    let cancelled = fixtures::operation(42, "start", "cancelled", Some("an operator cancelled it"));
    daemon.answers("POST /operations/42/cancel", 200, &cancelled);
    both!(daemon, "operations_cancel", ["operations", "cancel", "42"]);
}
