//! A start that takes effect after its caller has timed out.
//!
//! Dropping a call does not cancel it in the engine. However late the start takes effect, in the end there is one
//! container and one live token, and the process has that token.

use std::{
    process::{Child, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use tempfile::TempDir;

use super::{
    HASTY, creation, make,
    truth::{assert_one_token, assert_truthful, containers, converge, sweep, text},
};
use crate::support::{
    daemon::{Site, until},
    engine_proxy::{EngineProxy, Fault, Gate, Moment, Request, Rule},
    podman::{podman, podman_output},
};

const STARTS: (&str, &str) = ("POST", "/start");

fn with_short_deadline() -> String {
    HASTY.replace("[engine]\n", "[engine]\nchange_deadline = \"2s\"\n")
}

fn is_start(request: &Request) -> bool {
    request.method == STARTS.0 && request.path.ends_with(STARTS.1)
}

/// The container id in the path of a request.
fn container_of(request: &Request) -> String {
    request.path.split('/').find(|part| part.len() == 64).unwrap_or_default().to_owned()
}

#[track_caller]
fn assert_one_of_each(site: &Site, name: &str) {
    let row = site.until_status(name, "online");
    let existing = containers(&site.instance());
    assert_eq!(existing.len(), 1, "{existing:#?}");
    assert_eq!(existing[0].id, text(&row["container_id"]));
    assert_one_token(site, &text(&row["id"]), &existing[0].id);
    converge(site);
    assert_truthful(site);
}

#[test]
fn start_answered_after_deadline_leaves_one_container_and_token() {
    let proxy = EngineProxy::start();
    let mut site = Site::on(proxy.socket_path(), &with_short_deadline());
    site.serve();
    let gate = Gate::default();
    proxy.set_rules([Rule::on(STARTS.0, STARTS.1, Fault::DelayAnswer(gate.clone())).times(1)]);
    site.ostler(creation("late", &[])).well();
    gate.open();
    assert_one_of_each(&site, "late");
    assert!(proxy.count(STARTS.0, STARTS.1) >= 2, "the first start was not repeated");
}

#[test]
fn container_removed_during_start_is_replaced() {
    let proxy = EngineProxy::start();
    let mut site = Site::on(proxy.socket_path(), HASTY);
    site.serve();
    make(&site, "w");
    site.ostler(["stop", "w"]).well();
    let removed = AtomicBool::new(false);
    proxy.observe(move |request, moment| {
        if moment == Moment::Arrived && is_start(request) && !removed.swap(true, Ordering::AcqRel) {
            podman_output(["rm", "--force", "--time=0", &container_of(request)]);
        }
    });
    site.ostler(["start", "w"]).well();
    assert_one_of_each(&site, "w");
    assert!(proxy.count(STARTS.0, STARTS.1) >= 2, "the container was not removed during the start");
}

/// The answer to the first start is lost, and the start takes effect just before the request that `when` matches.
fn takes_effect_before(when: impl Fn(&Request) -> bool + Send + Sync + 'static) {
    let proxy = EngineProxy::start();
    let mut site = Site::on(proxy.socket_path(), &with_short_deadline());
    site.serve();
    let (lost, took_effect) = (Mutex::new(None), Arc::new(AtomicBool::new(false)));
    let done = Arc::clone(&took_effect);
    proxy.set_rules([Rule::on(STARTS.0, STARTS.1, Fault::Hang).times(1)]);
    proxy.observe(move |request, moment| {
        if moment != Moment::Arrived {
            return;
        }
        let mut lost = lost.lock().unwrap();
        match &*lost {
            None if is_start(request) => *lost = Some(container_of(request)),
            Some(container) if when(request) && !done.swap(true, Ordering::AcqRel) => {
                podman_output(["start", container]);
            }
            _ => {}
        }
    });
    site.ostler(creation("late", &[])).well();
    assert!(took_effect.load(Ordering::Acquire), "the late start did not take effect");
    assert_one_of_each(&site, "late");
}

#[test]
fn late_start_just_before_stop_request_leaves_one_token() {
    takes_effect_before(|request| request.method == "POST" && request.path.ends_with("/stop"));
}

#[test]
fn late_start_just_before_token_write_leaves_one_token() {
    takes_effect_before(|request| request.method == "PUT");
}

#[test]
fn late_start_just_before_retry_leaves_one_token() {
    takes_effect_before(is_start);
}

#[test]
fn late_start_after_pause_is_stopped() {
    let proxy = EngineProxy::start();
    let mut site = Site::on(proxy.socket_path(), &with_short_deadline());
    site.serve();
    make(&site, "late");
    site.ostler(["stop", "late"]).well();
    proxy.set_rules([Rule::on(STARTS.0, STARTS.1, Fault::Hang)]);
    site.ostler(["start", "late", "--no-wait"]).well();
    until("a start is lost", || (proxy.count(STARTS.0, STARTS.1) > 1).then_some(()));
    let stop = std::thread::scope(|threads| {
        let stopping = threads.spawn(|| site.ostler(["stop", "late"]));
        until("the status of the workspace is paused", || {
            (site.show("late")["status"] == "paused").then_some(())
        });
        stopping.join().expect("the command runs")
    });
    stop.well();
    let container = text(&site.show("late")["container_id"]);
    podman_output(["start", &container]);
    until("the workspace is stopped again", || {
        sweep(&site, &["settle"]);
        containers(&site.instance()).iter().all(|container| !container.runs).then_some(())
    });
    proxy.set_rules([]);
    converge(&site);
    assert_truthful(&site);
    site.ostler(["start", "late"]).well();
    assert_one_of_each(&site, "late");
}

#[test]
fn starts_with_lost_answers_leave_one_container_and_token() {
    let proxy = EngineProxy::start();
    let mut site = Site::on(proxy.socket_path(), &with_short_deadline());
    site.serve();
    // Each start takes effect, and no answer arrives.
    proxy.set_rules([Rule::on(STARTS.0, STARTS.1, Fault::DropAfter)]);
    site.ostler(creation("late", &["--no-wait"])).well();
    until("several starts were tried", || {
        sweep(&site, &["settle"]);
        (proxy.count(STARTS.0, STARTS.1) >= 2).then_some(())
    });
    proxy.set_rules([]);
    until("the workspace is online", || {
        sweep(&site, &["settle"]);
        (site.show("late")["status"] == "online").then_some(())
    });
    assert_one_of_each(&site, "late");
}

/// A Podman service on the tests' storage that a test may kill.
struct Service {
    directory: TempDir,
    child: Child,
}

impl Service {
    fn start() -> Self {
        let directory = tempfile::Builder::new().prefix("ostler-service-").tempdir().unwrap();
        let child = serve_podman(&directory);
        Self { directory, child }
    }

    fn kill(&mut self) {
        self.child.kill().expect("the service is killed");
        self.child.wait().expect("the service ends");
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn serve_podman(directory: &TempDir) -> Child {
    let socket = directory.path().join("podman.sock");
    let _ = std::fs::remove_file(&socket);
    let address = format!("unix://{}", socket.display());
    let mut service = podman();
    service.args(["system", "service", "--time=0", &address]).current_dir(directory.path());
    let child = service.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let child = child.expect("podman starts");
    until("the service listens", || std::os::unix::net::UnixStream::connect(&socket).ok());
    child
}

#[test]
fn podman_killed_during_create_leaves_one_container_and_token() {
    let mut service = Service::start();
    let mut site = Site::on(&service.directory.path().join("podman.sock"), HASTY);
    site.serve();
    converge(&site);
    site.ostler(creation("cut", &["--no-wait"])).well();
    until("a container is made", || (!containers(&site.instance()).is_empty()).then_some(()));
    service.kill();
    let doctor = site.ostler(["doctor"]);
    assert!(doctor.code == 1 && doctor.stdout.contains("start Podman's service"), "{doctor:?}");
    service.child = serve_podman(&service.directory);
    until("the workspace is online", || {
        sweep(&site, &["settle"]);
        sweep(&site, &["check_containers"]);
        (site.show("cut")["status"] == "online").then_some(())
    });
    converge(&site);
    assert_truthful(&site);
}
