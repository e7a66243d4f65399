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
