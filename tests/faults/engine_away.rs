//! Orders while Podman does not answer: accepted, shown as not done, and carried out when it is back.

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
        stopped.code == 0 && stopped.stdout.contains("will be stopped when Podman answers"),
        "a stop that is written down is no failure: {stopped:?}"
    );
    let effective = site.show("worker");
    assert_eq!(
        (&effective["status"], &effective["operation"]),
        (&"paused".into(), &"stop: waiting until Podman answers".into())
    );
    let why = site.ostler(["why", "worker"]).stdout;
    assert!(why.contains("waiting until Podman answers") && why.contains("could not be stopped"), "{why}");
    assert_eq!(state(), "running", "nothing can stop it yet");

    let created = site.ostler(super::creation("late", &["--no-wait"]));
    assert!(created.code == 0 && created.stderr.contains("when Podman answers"), "{created:?}");
    until("the start is shown to wait", || {
        (site.show("late")["operation"] == "start: waiting until Podman answers").then_some(())
    });

    proxy.listen();
    until("what was ordered meanwhile is done", || {
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
fn operation_is_queued_or_changes_nothing_while_podman_is_down() {
    let proxy = EngineProxy::start();
    let mut site = Site::on(proxy.socket_path(), HASTY);
    site.serve();
    for name in ["sleeper", "asleep", "up", "gone", "back"] {
        super::make(&site, name);
    }
    site.ostler(["hibernate", "asleep"]).well();
    let container = |name: &str| site.show(name)["container_id"].as_str().unwrap().to_owned();
    let (sleeper, gone) = (container("sleeper"), container("gone"));
    let state = |container: &str| inspected(container, "{{.State.Status}}");
    let up = site.show("up");
    site.ostler(["rm", "back"]).well();
    until("it is in the trash", || (site.trash().first()?["state"] == "kept").then_some(()));
    proxy.refuse();

    let hibernated = site.ostler(["hibernate", "sleeper"]);
    assert!(
        hibernated.code == 0 && hibernated.stdout.contains("will be stopped when Podman answers"),
        "a hibernation that is written down is no failure: {hibernated:?}"
    );
    let effective = site.show("sleeper");
    assert_eq!(
        (&effective["status"], &effective["operation"]),
        (&"hibernating".into(), &"stop: waiting until Podman answers".into()),
        "its container still runs"
    );
    assert_eq!(state(&sleeper).as_deref(), Some("running"));

    for (order, name, status) in [
        ("wake", "asleep", "hibernated"),
        ("start", "asleep", "hibernated"),
        ("restart", "up", "online"),
        ("recreate", "up", "online"),
        ("wake", "sleeper", "hibernating"),
    ] {
        let refused = site.ostler([order, name]);
        assert!(
            refused.code == 1 && refused.stderr.contains("nothing was started"),
            "{order} says that it did nothing: {refused:?}"
        );
        let effective = site.show(name);
        assert_eq!(effective["status"], status, "{order}: {effective}");
        let waits = effective["operation"].as_str().unwrap_or_default().starts_with("start");
        assert!(!waits, "{order} is not tried again, and nothing may say so: {effective}");
    }
    assert_eq!(site.show("up")["incarnation"], up["incarnation"]);

    let removed = site.ostler(["rm", "gone"]);
    assert!(
        removed.code == 0 && removed.stdout.contains("when Podman answers"),
        "its container runs on until then: {removed:?}"
    );

    let undeleted = site.ostler(["undelete", "back"]);
    assert!(undeleted.code == 0 && undeleted.stdout.contains("when Podman answers"), "{undeleted:?}");
    assert_eq!(site.show("back")["status"], "paused");

    proxy.listen();
    until("what was accepted is done, and nothing else", || {
        site.sweep_all();
        let (sleeping, asleep, now) = (site.show("sleeper"), site.show("asleep"), site.show("up"));
        let stopped = [&sleeper, &gone].map(|container| state(container).as_deref() != Some("running"));
        (sleeping["status"] == "hibernated" && stopped == [true, true] && in_trash(&site) == ["gone"]).then(
            || {
                assert_eq!((&asleep["status"], &now["status"]), (&"hibernated".into(), &"online".into()));
                assert_eq!(now["incarnation"], up["incarnation"]);
            },
        )
    });
}

/// The doctor's check of the agent listeners.
fn listen_of(site: &Site) -> Value {
    let said = site.ostler(["doctor", "--json"]);
    let report: Value = serde_json::from_str(&said.stdout).unwrap_or_else(|why| panic!("{why}: {said:?}"));
    let checks = report["checks"].as_array().expect("a report has checks");
    checks.iter().find(|check| check["name"] == "listen").expect("it tells where agents are heard").clone()
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
    let is_heard = || TcpStream::connect(gateway).is_ok();
    assert!(is_heard(), "containers reach {gateway}");

    for frozen in [false, true] {
        site.stop();
        assert!(!is_heard(), "nobody listens at {gateway}");
        if frozen {
            proxy.listen();
            proxy.set_rules([Rule::when(|_| true, Fault::Hang)]);
        } else {
            proxy.refuse();
        }
        site.serve();
        until("agents reach it again, without Podman", || is_heard().then_some(()));
        let listen = listen_of(&site);
        let found = listen["found"].as_str().unwrap();
        assert!(
            found.contains(&gateway.to_string()) && listen["verdict"] != "fail",
            "the doctor tells what is bound, frozen: {frozen}: {listen}"
        );
        let answer = site.ostler(["message", "kid", "hi"]);
        assert!(answer.code == 0 && answer.stdout.contains("heard: hi"), "frozen: {frozen}: {answer:?}");
    }
    // After a failed request, further messages do not ask the engine about their container.
    let asked = proxy.seen().len();
    for _ in 0..3 {
        site.ostler(["message", "kid", "hi"]).well();
    }
    let seen = proxy.seen();
    let more = &seen[asked..];
    let notes = more.iter().filter(|request| request.path.contains(&container)).count();
    assert_eq!(notes, 0, "each message asks a frozen Podman: {more:?}");

    proxy.set_rules([]);
    until("the engine's answer is in force", || (listen_of(&site)["verdict"] == "ok").then_some(()));
    assert!(is_heard(), "the address is kept when Podman is back");
}
