//! Commands that change workspaces: the requests that they send, how they wait, and the messages that they print.

use insta::assert_snapshot;
use ostler::api::{
    order::OrderOutcome,
    workspace::{Child, CreatedWorkspace, Patched, RemoveOutcome, WorkspaceView},
};

use super::fixtures;
use crate::support::cli::FakeDaemon;

fn created() -> CreatedWorkspace {
    CreatedWorkspace {
        id: fixtures::BUILDER.into(),
        name: "builder".into(),
        status: "provisioning".into(),
        external: false,
        operation_id: Some(7),
        connection: None,
        notes: Vec::new(),
        ignored: Vec::new(),
    }
}

fn outcome(status: &str) -> OrderOutcome {
    OrderOutcome {
        accepted: false,
        id: fixtures::BUILDER.into(),
        name: "builder".into(),
        status: status.into(),
        detail: None,
        along: Vec::new(),
        operation_id: Some(7),
    }
}

fn by_id() -> String {
    format!("GET /workspaces/{}", fixtures::BUILDER)
}

#[test]
fn create_waits_until_the_workspace_is_online() {
    let daemon = FakeDaemon::start();
    daemon.answers("POST /workspaces", 201, &created());
    daemon.answers(&by_id(), 200, &fixtures::builder("provisioning")).answers(
        &by_id(),
        200,
        &fixtures::builder("online"),
    );
    assert_snapshot!("create", daemon.run(&["create", "builder", "--image", "alpine"]).transcript());
    assert_eq!(daemon.requests().len(), 3, "one request and two polls: {:?}", daemon.requests());
    assert_snapshot!("create_json", daemon.run(&["create", "builder", "--json"]).transcript());
}

#[test]
fn failed_create_prints_reason_and_next_step() {
    let daemon = FakeDaemon::start();
    daemon.answers("POST /workspaces", 201, &created());
    let failed = WorkspaceView {
        failure: Some("start_error".into()),
        status_detail: Some("the image docker.io/library/alpine:nope does not exist".into()),
        ..fixtures::builder("failed")
    };
    daemon.answers(&by_id(), 200, &failed);
    assert_snapshot!("create_fails", daemon.run(&["create", "builder"]).transcript());
    let json = daemon.run(&["create", "builder", "--json"]);
    assert_eq!(json.code, 1);
    assert!(json.stdout.contains("\"status\": \"failed\""), "{}", json.stdout);
}

#[test]
fn create_with_no_wait_sends_one_request() {
    let daemon = FakeDaemon::start();
    daemon.answers("POST /workspaces", 201, &created());
    assert_snapshot!("create_no_wait", daemon.run(&["create", "builder", "--no-wait"]).transcript());
    assert_eq!(daemon.requests().len(), 1);
}

#[test]
fn create_external_prints_agent_connection_details() {
    let daemon = FakeDaemon::start();
    let external = CreatedWorkspace {
        external: true,
        status: "awaiting_agent".into(),
        connection: Some(fixtures::connection()),
        ..created()
    };
    daemon.answers("POST /workspaces", 201, &external);
    assert_snapshot!("create_external", daemon.run(&["create", "builder", "--external"]).transcript());
    assert_snapshot!(
        "create_external_json",
        daemon.run(&["create", "builder", "--external", "--json"]).transcript()
    );
}

#[test]
fn create_sends_every_flag() {
    let daemon = FakeDaemon::start();
    daemon.answers("POST /workspaces", 201, &created());
    let home = crate::support::cli::home();
    let dir = home.path().canonicalize().unwrap();
    let (env_file, config) = (dir.join("test.env"), dir.join("config.yaml"));
    std::fs::write(&env_file, "# comment\n\nFROM_FILE=a = b\nLEVEL=file\n").unwrap();
    std::fs::write(&config, "model: local\n").unwrap();
    let bound = format!("{}:ro", dir.display());
    let (env_file, config) = (env_file.to_str().unwrap(), config.to_str().unwrap());
    let ran = daemon.run(&[
        "create",
        "builder",
        "--image",
        "alpine",
        "--parent",
        "root",
        "--role",
        "builds",
        "--runtime",
        "agent",
        "--tier",
        "3",
        "--env",
        "LEVEL=flag",
        "-e",
        "TZ",
        "--env-file",
        env_file,
        "--dir",
        &bound,
        "--config-file",
        config,
        "--no-wait",
        "--",
        "sleep",
        "-x",
    ]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let sent = daemon.requests()[0].replace(dir.to_str().unwrap(), "[DIR]");
    assert_snapshot!("create_request", sent);
}

#[test]
fn set_sends_container_changes_and_rejects_invalid_options() {
    let daemon = FakeDaemon::start();
    let notes = vec!["a note".to_owned()];
    let patched = Patched {
        status: "updated".into(),
        needs_restart: true,
        needs_recreate: true,
        notes,
        ignored: Vec::new(),
    };
    daemon.answers("PATCH /workspaces/builder", 200, &patched);
    let home = crate::support::cli::home();
    let dir = home.path().canonicalize().unwrap();
    let config = dir.join("config.yaml");
    std::fs::write(&config, "model: local\n").unwrap();
    let (bound, config) = (format!("{}:ro", dir.display()), config.to_str().unwrap());
    let changes = [
        "-e",
        "LEVEL=debug",
        "--unset-env",
        "OLD",
        "--dir",
        &bound,
        "--config-file",
        config,
        "--",
        "sleep",
        "-x",
    ];
    let ran = daemon.run(&[&["set", "builder"], &changes[..]].concat());
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("a note") && ran.stderr.contains("ostler recreate builder"),
        "{}",
        ran.stderr
    );
    let sent = daemon.requests()[0].replace(dir.to_str().unwrap(), "[DIR]");
    assert_snapshot!("set_request", sent);

    let default = daemon.run(&["set", "builder", "--default-command"]);
    assert_eq!(
        (default.code, daemon.requests()[1].as_str()),
        (0, r#"PATCH /workspaces/builder {"command":[]}"#)
    );
    for wrong in [
        &["--default-command", "--", "x"][..],
        &["-e", "A=1", "--unset-env", "A"],
        &["--dir", "/nowhere/at/all"],
        &["--"],
    ] {
        let ran = daemon.run(&[&["set", "builder"], wrong].concat());
        assert_eq!((ran.code, daemon.requests().len()), (2, 2), "{wrong:?}: {}", ran.stderr);
    }
}

#[test]
fn start_sends_request_and_waits_until_workspace_is_online() {
    let daemon = FakeDaemon::start();
    daemon.answers("POST /workspaces/builder/start", 200, &outcome("provisioning"));
    daemon.answers(&by_id(), 200, &fixtures::builder("provisioning")).answers(
        &by_id(),
        200,
        &fixtures::builder("online"),
    );
    assert_snapshot!("start", daemon.run(&["start", "builder"]).transcript());
    assert_snapshot!("start_json", daemon.run(&["resume", "builder", "--json", "--new-volume"]).transcript());
    let requests = daemon.requests();
    assert_eq!(requests[0], r#"POST /workspaces/builder/start {"new_volume":false}"#);
    assert!(requests.iter().any(|sent| sent.ends_with(r#"{"new_volume":true}"#)), "{requests:?}");
}

#[test]
fn restart_and_recreate_wait_until_workspace_is_online() {
    let daemon = FakeDaemon::start();
    daemon.answers(&by_id(), 200, &fixtures::builder("online"));
    for verb in ["restart", "recreate"] {
        daemon.answers(&format!("POST /workspaces/builder/{verb}"), 200, &outcome("provisioning"));
        let ran = daemon.run(&[verb, "builder"]);
        assert_eq!((ran.code, ran.stdout.as_str()), (0, "builder is online\n"), "{verb}: {}", ran.stderr);
    }
}

#[test]
fn recreate_mentions_old_container_only_when_it_is_replaced() {
    let daemon = FakeDaemon::start();
    daemon.answers(&by_id(), 200, &fixtures::builder("online"));
    daemon.answers("GET /workspaces/builder", 200, &fixtures::builder("online"));
    for (more, expected) in [(&["--no-wait"][..], Some("will be moved to the trash")), (&[], None)] {
        let query = if more.is_empty() { "" } else { "?wait=false" };
        daemon.answers(&format!("POST /workspaces/builder/recreate{query}"), 200, &outcome("provisioning"));
        let ran = daemon.run(&[&["recreate", "builder"], more].concat());
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        match expected {
            Some(expected) => assert!(ran.stderr.contains(expected), "{}", ran.stderr),
            // The container is the same before and after, because another start was processed first.
            None => assert!(!ran.stderr.contains("trash"), "{}", ran.stderr),
        }
    }
}

#[test]
fn message_to_polling_agent_is_reported_as_stored() {
    let daemon = FakeDaemon::start();
    daemon.answers("GET /workspaces/builder", 200, &fixtures::builder("online"));
    let queued = serde_json::json!({ "status": "queued", "delivery_mode": "poll", "method": "message/send" });
    daemon.answers("POST /workspaces/builder/a2a", 200, &queued);
    let ran = daemon.run(&["message", "builder", "hi"]);
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (0, "stored for builder until its agent polls\n"),
        "{}",
        ran.stderr
    );
}

#[test]
fn stop_prints_resulting_status() {
    let daemon = FakeDaemon::start();
    daemon.answers("POST /workspaces/builder/stop", 200, &outcome("paused"));
    daemon.answers("POST /workspaces/builder/stop?wait=false", 200, &outcome("paused"));
    assert_snapshot!("stop", daemon.run(&["stop", "builder"]).transcript());
    assert_snapshot!("stop_json", daemon.run(&["pause", "builder", "--json"]).transcript());
    assert_eq!(daemon.run(&["stop", "builder", "--no-wait"]).code, 0);
}

#[test]
fn undelete_sends_new_name_from_name_option() {
    let daemon = FakeDaemon::start();
    daemon.answers("POST /workspaces/6f1c/undelete", 200, &outcome("paused"));
    assert_snapshot!("undelete", daemon.run(&["undelete", "6f1c", "--name", "builder"]).transcript());
    assert_eq!(daemon.requests(), [r#"POST /workspaces/6f1c/undelete {"name":"builder","only":false}"#]);
}

#[test]
fn accepted_order_prints_its_operation_and_what_it_waits_for() {
    let daemon = FakeDaemon::start();
    let why = "it continues when Podman answers. Podman does not answer now (connection refused)";
    let waits = OrderOutcome { accepted: true, detail: Some(why.into()), ..outcome("paused") };
    daemon.answers("POST /workspaces/builder/start", 200, &waits);
    assert_snapshot!("start_accepted", daemon.run(&["start", "builder"]).transcript());
    let unawaited = OrderOutcome { accepted: true, ..outcome("online") };
    daemon.answers("POST /workspaces/builder/restart?wait=false", 200, &unawaited);
    assert_snapshot!("restart_no_wait", daemon.run(&["restart", "builder", "--no-wait"]).transcript());
}

#[test]
fn rm_prints_undelete_command_or_purge_result() {
    let daemon = FakeDaemon::start();
    let removed = |cascade_deleted| RemoveOutcome {
        detail: None,
        operation_id: Some(7),
        status: "removed".into(),
        cascade_deleted,
        purged: None,
        purge_error: None,
        children: Vec::new(),
        children_count: 0,
    };
    daemon.answers("DELETE /workspaces/builder?confirm=false&purge=false", 200, &removed(0));
    let purged = RemoveOutcome { purged: Some(true), ..removed(2) };
    daemon.answers("DELETE /workspaces/builder?confirm=true&purge=true", 200, &purged);
    let why = Some("the engine call failed: query Podman's version: connection refused".to_owned());
    let left = RemoveOutcome { purged: Some(false), purge_error: why, ..removed(0) };
    daemon.answers("DELETE /workspaces/builder?confirm=false&purge=true", 200, &left);
    assert_snapshot!("rm", daemon.run(&["rm", "builder"]).transcript());
    assert_snapshot!("rm_json", daemon.run(&["rm", "builder", "--json"]).transcript());
    assert_snapshot!("rm_purge", daemon.run(&["rm", "builder", "--cascade", "--purge"]).transcript());
    assert_snapshot!("rm_purge_unfinished", daemon.run(&["rm", "builder", "--purge"]).transcript());
}

#[test]
fn rm_without_cascade_fails_and_lists_children() {
    let daemon = FakeDaemon::start();
    let child = |name: &str| Child { id: fixtures::TESTER.into(), name: name.into() };
    let confirmation = RemoveOutcome {
        detail: None,
        operation_id: None,
        status: "confirmation_required".into(),
        cascade_deleted: 0,
        purged: None,
        purge_error: None,
        children: vec![child("tester"), child("night shift")],
        children_count: 2,
    };
    daemon.answers("DELETE /workspaces/builder?confirm=false&purge=false", 409, &confirmation);
    assert_snapshot!("rm_children", daemon.run(&["rm", "builder"]).transcript());
    assert_snapshot!("rm_children_json", daemon.run(&["rm", "builder", "--json"]).transcript());
}
