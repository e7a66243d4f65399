//! Operations while Podman does not answer: they are accepted, shown as pending, and carried out when Podman answers
//! again.

use std::net::{SocketAddr, TcpStream};

use serde_json::Value;

use crate::support::{
    daemon::{Site, until},
    engine_proxy::{EngineProxy, Fault, Rule},
    podman::{demo_image, inspected},
};

use super::HASTY;

#[test]
fn stop_and_create_are_queued_and_shown_while_podman_is_down() {
    let proxy = EngineProxy::start();
    let mut site = Site::on(proxy.socket_path(), HASTY);
    site.serve();
    super::make(&site, "worker");
    let container = site.show("worker")["container_id"].as_str().unwrap().to_owned();
    let state = || inspected(&container, "{{.State.Status}}").unwrap();
    proxy.refuse();

    let stopped = site.ostler(["stop", "worker"]);
    assert!(
        stopped.code == 0 && stopped.stdout.contains("accepted: it continues when Podman answers"),
        "an accepted stop is reported as a failure: {stopped:?}"
    );
    let row = site.show("worker");
    assert_eq!(
        (&row["status"], &row["operation"]),
        (&"paused".into(), &"stop: waiting until Podman answers".into())
    );
    let why = site.ostler(["why", "worker"]).stdout;
    assert!(why.contains("waiting until Podman answers") && why.contains("waits for Podman"), "{why}");
    assert_eq!(state(), "running", "the container was stopped without Podman");

    let created = site.ostler(super::creation("late", &["--no-wait"]));
    assert!(created.code == 0 && created.stderr.contains("when Podman answers"), "{created:?}");
    until("the creation is shown as waiting", || {
        (site.show("late")["operation"] == "create: waiting until Podman answers").then_some(())
    });

    proxy.listen();
    until("the accepted operations are done", || {
        let (worker, late) = (site.show("worker"), site.show("late"));
        let waits = !worker["operation"].is_null() || !late["operation"].is_null();
        (state() == "exited" && late["status"] == "online" && !waits).then_some(())
    });
}

/// Names of the workspaces with entries in the trash.
fn in_trash(site: &Site) -> Vec<String> {
    let entries = site.trash();
    entries.iter().filter_map(|entry| entry["workspace_name"].as_str().map(Into::into)).collect()
}

#[test]
fn operations_are_accepted_while_podman_is_down_and_done_later() {
    let proxy = EngineProxy::start();
    let mut site = Site::on(proxy.socket_path(), HASTY);
    site.serve();
    for name in ["idle", "dormant", "up", "gone", "back"] {
        super::make(&site, name);
    }
    site.ostler(["hibernate", "dormant"]).well();
    let container = |name: &str| site.show(name)["container_id"].as_str().unwrap().to_owned();
    let (idle, gone) = (container("idle"), container("gone"));
    let state = |container: &str| inspected(container, "{{.State.Status}}");
    let up = site.show("up");
    site.ostler(["rm", "back"]).well();
    until("the workspace is in the trash", || (site.trash().first()?["state"] == "kept").then_some(()));
    proxy.refuse();

    let hibernated = site.ostler(["hibernate", "idle"]);
    assert!(
        hibernated.code == 0 && hibernated.stdout.contains("accepted: it continues when Podman answers"),
        "an accepted hibernation is reported as a failure: {hibernated:?}"
    );
    let row = site.show("idle");
    assert_eq!(
        (&row["status"], &row["operation"]),
        (&"hibernating".into(), &"hibernate: waiting until Podman answers".into()),
        "the status is wrong while its container runs"
    );
    assert_eq!(state(&idle).as_deref(), Some("running"));

    for (order, name, status) in [
        ("wake", "dormant", "hibernated"),
        ("start", "dormant", "hibernated"),
        ("restart", "up", "online"),
        ("recreate", "up", "online"),
        ("wake", "idle", "hibernating"),
    ] {
        let accepted = site.ostler([order, name]);
        assert!(
            accepted.code == 0 && accepted.stdout.contains("accepted: it continues when Podman answers"),
            "{order} does not report that it waits: {accepted:?}"
        );
        let row = site.show(name);
        assert_eq!(row["status"], status, "{order}: {row}");
        let waits = row["operation"].as_str().unwrap_or_default().ends_with("waiting until Podman answers");
        assert!(waits, "{order} is not shown as waiting: {row}");
    }
    assert_eq!(site.show("up")["incarnation"], up["incarnation"]);

    let removed = site.ostler(["rm", "gone"]);
    assert!(
        removed.code == 0 && removed.stdout.contains("when Podman answers"),
        "the removal does not report that it is pending: {removed:?}"
    );

    let undeleted = site.ostler(["undelete", "back"]);
    assert!(undeleted.code == 0 && undeleted.stdout.contains("when Podman answers"), "{undeleted:?}");
    assert_eq!(site.show("back")["status"], "paused");

    proxy.listen();
    until("the accepted operations are done", || {
        site.sweep_all();
        let open = site.ostler(["operations", "ls", "--open", "--json"]).well();
        let trashed: Vec<_> = in_trash(&site).into_iter().filter(|name| name != "up").collect();
        let is_gone = state(&gone).as_deref() != Some("running");
        (open.trim() == "[]" && is_gone && trashed == ["gone"]).then_some(())
    });
    for name in ["idle", "dormant", "up"] {
        site.until_status(name, "online");
    }
    let incarnation = |row: &Value| row["incarnation"].as_u64().expect("it is a number");
    let times = incarnation(&site.show("up")) - incarnation(&up);
    assert_eq!(times, 2, "the restart and the recreate are carried out once each");
}

/// The doctor's check of the agent listeners.
fn listen_of(site: &Site) -> Value {
    let output = site.ostler(["doctor", "--json"]);
    let report: Value =
        serde_json::from_str(&output.stdout).unwrap_or_else(|why| panic!("{why}: {output:?}"));
    let checks = report["checks"].as_array().expect("a report has checks");
    checks.iter().find(|check| check["name"] == "listen").expect("the doctor has a check `listen`").clone()
}

#[test]
fn agents_reach_daemon_started_while_podman_is_down() {
    let proxy = EngineProxy::start();
    let mut site = Site::on(proxy.socket_path(), "[engine]\nread_deadline = \"5s\"\n");
    site.serve();
    site.ostler(["create", "kid", "--runtime", "agent", "--image", demo_image()]).well();
    let container = site.show("kid")["container_id"].as_str().unwrap().to_owned();
    let gateway = inspected(&container, "{{range .NetworkSettings.Networks}}{{.Gateway}}{{end}}").unwrap();
    let gateway = SocketAddr::new(gateway.parse().expect("an address"), site.network_port());
    let is_reachable = || TcpStream::connect(gateway).is_ok();
    assert!(is_reachable(), "containers do not reach {gateway}");

    for frozen in [false, true] {
        site.stop();
        assert!(!is_reachable(), "the daemon still listens at {gateway}");
        if frozen {
            proxy.listen();
            proxy.set_rules([Rule::when(|_| true, Fault::Hang)]);
        } else {
            proxy.refuse();
        }
        site.serve();
        until("agents reach the daemon again, without Podman", || is_reachable().then_some(()));
        let listen = listen_of(&site);
        let found = listen["found"].as_str().unwrap();
        assert!(
            found.contains(&gateway.to_string()) && listen["verdict"] != "fail",
            "the doctor does not show the bound address, frozen: {frozen}: {listen}"
        );
        let answer = site.ostler(["message", "kid", "hi"]);
        assert!(answer.code == 0 && answer.stdout.contains("heard: hi"), "frozen: {frozen}: {answer:?}");
    }
    // After one failed request, messages are delivered without asking the engine about the workspace's container.
    let asked = proxy.seen().len();
    for _ in 0..3 {
        site.ostler(["message", "kid", "hi"]).well();
    }
    let seen = proxy.seen();
    let more = &seen[asked..];
    let lookups = more.iter().filter(|request| request.path.contains(&container)).count();
    assert_eq!(lookups, 0, "each message requests the container from a frozen Podman: {more:?}");

    proxy.set_rules([]);
    until("the engine's answer is applied", || (listen_of(&site)["verdict"] == "ok").then_some(()));
    assert!(is_reachable(), "the address is not bound after Podman answers again");
}
