//! Exits that Podman does not detect, because conmon, which reports them, was killed first. Podman shows the container
//! as running forever, and neither a stop nor a start changes that.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};

use super::{
    HASTY, make,
    truth::{assert_truthful, converge},
};
use crate::support::{
    daemon::{Site, until},
    podman::{directory_of, has_ended, image, inspected, podman},
};

/// Kills conmon and then the process, and waits until the process has exited.
#[track_caller]
fn lose_exit(container: &str) {
    end_while(container, "running");
}

/// Imitates a `podman stop` with a long grace period that was killed, after which conmon and the process were killed
/// too.
#[track_caller]
fn end_while_stopping(container: &str) {
    let mut stop = podman().args(["stop", "--time=300", container]).spawn().expect("podman runs");
    until("the container is being stopped", || {
        (inspected(container, "{{.State.Status}}")? == "stopping").then_some(())
    });
    stop.kill().and_then(|()| stop.wait()).expect("the stop is killed");
    end_while(container, "stopping");
}

#[track_caller]
fn end_while(container: &str, state: &str) {
    let pids = inspected(container, "{{.State.ConmonPid}} {{.State.Pid}}").expect("the container exists");
    for pid in pids.split(' ') {
        let process = Pid::from_raw(pid.parse().expect("a number")).expect("a process");
        kill_process(process, Signal::KILL).expect("the process can be killed");
    }
    let process = pids.split(' ').next_back().expect("the output has two pids");
    until("the process of the container has exited", || has_ended(process).then_some(()));
    assert_eq!(inspected(container, "{{.State.Status}}").as_deref(), Some(state), "Podman detected the exit");
}

/// Creates a workspace that ignores SIGTERM, and kills it while it is being stopped.
#[track_caller]
fn stuck_in_stopping(site: &Site, name: &str) -> String {
    let ignoring_sigterm =
        ["--", "sh", "-c", "trap '' TERM; cat /configs/.auth_token > /tmp/held; while :; do sleep 1; done"];
    site.ostler(["create", name, "--image", image()].into_iter().chain(ignoring_sigterm)).well();
    let container =
        site.show(name)["container_id"].as_str().expect("the workspace has a container").to_owned();
    end_while_stopping(&container);
    container
}

#[test]
fn container_stuck_in_stopping_is_replaced_by_sweeps() {
    let mut site = Site::new(&format!("{HASTY}[restart]\nfirst_backoff = \"1s\"\n"));
    site.serve();
    let old = stuck_in_stopping(&site, "stuck");
    until("the workspace is online in a new container", || {
        site.sweep_all();
        let row = site.show("stuck");
        (row["status"] == "online" && row["container_id"] != old.as_str()).then_some(())
    });
    converge(&site);
    assert_truthful(&site);
}

#[test]
fn operations_recover_container_stuck_in_stopping() {
    let mut site = Site::new(HASTY);
    site.serve();
    for order in ["restart", "recreate", "stop", "hibernate"] {
        let old = stuck_in_stopping(&site, order);
        site.ostler([order, order]).well();
        let row = site.show(order);
        let up = matches!(order, "restart" | "recreate");
        let expected = match order {
            "stop" => "paused",
            "hibernate" => "hibernated",
            _ => "online",
        };
        assert_eq!(row["status"], expected, "{row}");
        assert_eq!(up, row["container_id"] != old.as_str(), "{order}: {row}");
        if !up {
            site.ostler(["start", order]).well();
            assert_eq!(site.show(order)["status"], "online", "after {order}");
        }
    }
    converge(&site);
    assert_truthful(&site);
}

#[test]
fn container_is_replaced_when_podman_did_not_record_its_exit() {
    let mut site = Site::new(&format!("{HASTY}[restart]\nfirst_backoff = \"1s\"\n"));
    site.serve();
    let id = make(&site, "undetected");
    let work = directory_of(&format!("ostler-{id}-work")).join("work");
    fs::write(&work, "must stay").expect("the work volume can be written to");
    let old =
        site.show("undetected")["container_id"].as_str().expect("the workspace has a container").to_owned();
    lose_exit(&old);
    until("the workspace is online in a new container", || {
        site.sweep_all();
        let row = site.show("undetected");
        (row["status"] == "online" && row["container_id"] != old.as_str()).then_some(())
    });
    assert_eq!(fs::read_to_string(&work).expect("the work file exists"), "must stay");
    let entry = site.trash().into_iter().find(|entry| entry["reason"] == "replaced");
    assert_eq!(entry.expect("the old container is in the trash")["state"], "kept");
    converge(&site);
    assert_truthful(&site);
    site.ostler(["trash", "empty", "--yes"]).well();
    assert_eq!(inspected(&old, "{{.Id}}"), None, "the replaced container was not deleted");
}

#[test]
fn stop_succeeds_when_podman_did_not_record_the_exit() {
    let mut site = Site::new(HASTY);
    site.serve();
    make(&site, "stopped");
    lose_exit(site.show("stopped")["container_id"].as_str().expect("the workspace has a container"));
    site.ostler(["stop", "stopped"]).well();
    converge(&site);
    assert_truthful(&site);
    site.ostler(["start", "stopped"]).well();
    converge(&site);
    assert_truthful(&site);
}
