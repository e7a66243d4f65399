//! Orders while Podman gives no answer: accepted, shown as not done, and carried out when it is back.

use crate::support::{
    daemon::{Site, until},
    engine_proxy::EngineProxy,
    podman::inspected,
};

use super::HASTY;

#[test]
fn orders_are_accepted_and_shown_while_podman_is_away() {
    let proxy = EngineProxy::start();
    let mut site = Site::on(proxy.socket_path(), HASTY);
    site.serve();
    super::make(&site, "worker");
    let container = site.show("worker")["container_id"].as_str().unwrap().to_owned();
    let state = || inspected(&container, "{{.State.Status}}").unwrap();
    proxy.refuse();

    let stopped = site.ostler(["stop", "worker"]);
    assert!(
        stopped.code == 0 && stopped.stdout.contains("will be stopped when Podman is back"),
        "a stop that is written down is no failure: {stopped:?}"
    );
    let shown = site.show("worker");
    assert_eq!(
        (&shown["status"], &shown["operation"]),
        (&"paused".into(), &"stop: waits until Podman answers".into())
    );
    let why = site.ostler(["why", "worker"]).stdout;
    assert!(why.contains("waits until Podman answers") && why.contains("could not be stopped"), "{why}");
    assert_eq!(state(), "running", "nothing can stop it yet");

    let created = site.ostler(super::creation("late", &["--no-wait"]));
    assert!(created.code == 0 && created.stderr.contains("when Podman is back"), "{created:?}");
    until("the start is shown to wait", || {
        (site.show("late")["operation"] == "start: waits until Podman answers").then_some(())
    });

    proxy.listen();
    until("what was ordered meanwhile is done", || {
        let (worker, late) = (site.show("worker"), site.show("late"));
        let waits = !worker["operation"].is_null() || !late["operation"].is_null();
        (state() == "exited" && late["status"] == "online" && !waits).then_some(())
    });
}

/// Names of the workspaces that own the entries of the trash.
fn in_trash(site: &Site) -> Vec<String> {
    let entries = site.trash();
    entries.iter().filter_map(|entry| entry["workspace_name"].as_str().map(Into::into)).collect()
}

#[test]
fn order_is_kept_or_changes_nothing_while_podman_is_away() {
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
        hibernated.code == 0 && hibernated.stdout.contains("will be stopped when Podman is back"),
        "a hibernation that is written down is no failure: {hibernated:?}"
    );
    let shown = site.show("sleeper");
    assert_eq!(
        (&shown["status"], &shown["operation"]),
        (&"hibernating".into(), &"stop: waits until Podman answers".into()),
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
        let shown = site.show(name);
        assert_eq!(shown["status"], status, "{order}: {shown}");
        let waits = shown["operation"].as_str().unwrap_or_default().starts_with("start");
        assert!(!waits, "{order} is not tried again, and nothing may say so: {shown}");
    }
    assert_eq!(site.show("up")["incarnation"], up["incarnation"]);

    let removed = site.ostler(["rm", "gone"]);
    assert!(
        removed.code == 0 && removed.stdout.contains("when Podman is back"),
        "its container runs on until then: {removed:?}"
    );

    let undeleted = site.ostler(["undelete", "back"]);
    assert!(undeleted.code == 0 && undeleted.stdout.contains("when Podman is back"), "{undeleted:?}");
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
