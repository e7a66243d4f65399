//! An engine that is gone, hangs, refuses, or belongs to another user or storage: no pass acts and every answer gives
//! the reason. When the engine is back, the passes do the remaining work.

#![allow(clippy::disallowed_methods, reason = "real processes take real time")]

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use super::{
    HASTY, creation, make, run_manually,
    truth::{assert_truthful, containers, converge, live_digests, sweep, text},
};
use crate::support::{
    daemon::{Site, requires_engine, until},
    engine_proxy::{EngineProxy, Fault, Rule},
    podman::{podman, podman_output},
};

/// Work for every pass that takes something away.
struct Temptation {
    /// Container that runs although its workspace was removed.
    removed: String,
    /// Container that runs and is unknown to the registry.
    unknown: String,
    /// Container that runs although its workspace is paused.
    resting: String,
    /// A workspace with a live token and no container.
    orphan: String,
}

impl Temptation {
    /// Prepares all of it, and leaves the site without a daemon.
    fn prepare(site: &mut Site, proxy: &EngineProxy) -> Self {
        site.serve();
        for name in ["removed", "resting", "orphan"] {
            site.ostler(creation(name, &["--no-wait"])).well();
        }
        let [removed, resting, orphan] = ["removed", "resting", "orphan"].map(|name| {
            let row = site.until_status(name, "online");
            (text(&row["id"]), text(&row["container_id"]))
        });
        site.ostler(["stop", "resting"]).well();
        site.ostler(["stop", "orphan"]).well();
        proxy.refuse();
        site.ostler(["rm", "removed"]).well();
        site.kill();
        podman_output(["rm", &orphan.1]);
        podman_output(["start", &resting.1]);
        let nobody = uuid::Uuid::from_u128(site.instance().parse::<uuid::Uuid>().unwrap().as_u128() ^ 1);
        let unknown = run_manually(&site.instance(), &nobody.to_string(), 1);
        Self { removed: removed.1, unknown, resting: resting.1, orphan: orphan.0 }
    }

    #[track_caller]
    fn assert_resisted(&self, site: &Site) {
        let there = containers(&site.instance());
        for id in [&self.removed, &self.unknown, &self.resting] {
            let container = there.iter().find(|container| container.id == *id);
            let container = container.unwrap_or_else(|| panic!("{id} is gone: {there:#?}"));
            assert!(container.runs && !container.name.contains("trash"), "it was touched: {container:?}");
        }
        assert_eq!(live_digests(site, &self.orphan).len(), 1, "a token was revoked");
    }

    #[track_caller]
    fn assert_given_in_to(&self, site: &Site) {
        until("the passes have done what was left", || {
            sweep(site, &[]);
            let there = containers(&site.instance());
            let at_rest = there.iter().all(|container| !container.runs);
            let move_to_trash = [&self.removed, &self.unknown].iter().all(|id| {
                there.iter().any(|container| container.id == **id && container.name.contains("trash"))
            });
            (at_rest && move_to_trash && live_digests(site, &self.orphan).is_empty()).then_some(())
        });
        converge(site);
        assert_truthful(site);
    }
}

/// Asserts that no pass acts, that every pass and the doctor report `why`, and that operations without the engine work.
#[track_caller]
fn assert_idle(site: &Site, why: &str) {
    for run in sweep(site, &[]).as_array().unwrap().iter().filter(|run| requires_engine(run)) {
        assert_eq!(run["outcome"], "untrusted", "{run:#}");
        assert!(text(&run["detail"]).contains(why), "`{why}` is not told: {run:#}");
        assert_eq!(run["actions"], Value::Array(Vec::new()), "{run:#}");
    }
    let doctor = site.ostler(["doctor"]);
    assert!(doctor.code == 1 && doctor.stdout.contains(why), "the doctor does not tell `{why}`: {doctor:?}");
    assert!(doctor.stdout.contains("no sweep pass changes anything"), "{doctor:?}");
    assert!(site.ostler(["ls"]).well().contains("resting"));
    let start = site.ostler(["start", "resting"]);
    assert!(
        start.code == 1 && start.stderr.contains(why),
        "a start that cannot be says no reason: {start:?}"
    );
    assert_eq!(site.show("resting")["status"], "paused");
}

fn changes(proxy: &EngineProxy) -> usize {
    proxy.seen().iter().filter(|request| request.changes()).count()
}

/// One cause of failure: how it begins, how it is reported, and how it ends.
fn is_endured(config: &str, comes: impl Fn(&EngineProxy), why: &str, goes: impl Fn(&EngineProxy)) {
    let proxy = EngineProxy::start();
    let mut site = Site::on(proxy.socket_path(), HASTY);
    let temptation = Temptation::prepare(&mut site, &proxy);
    proxy.listen();
    // Set only now, so that a busy engine is not taken for one that hangs during the preparation.
    site.configure(config);
    comes(&proxy);
    let before = changes(&proxy);
    site.serve();
    assert_idle(&site, why);
    assert_eq!(changes(&proxy), before, "something was asked to change");
    temptation.assert_resisted(&site);
    goes(&proxy);
    temptation.assert_given_in_to(&site);
}

fn every_request(fault: &Fault) -> Rule {
    Rule::when(|_| true, fault.clone())
}

#[test]
fn daemon_changes_nothing_while_engine_socket_is_missing() {
    let gone = |proxy: &EngineProxy| {
        proxy.refuse();
        fs::remove_file(proxy.socket_path()).unwrap();
    };
    is_endured(HASTY, gone, "No such file", EngineProxy::listen);
}

#[test]
fn daemon_changes_nothing_while_engine_refuses_connections() {
    is_endured(HASTY, EngineProxy::refuse, "onnection refused", EngineProxy::listen);
}

#[test]
fn daemon_changes_nothing_while_engine_hangs() {
    let config = HASTY.replace("read_deadline = \"10s\"", "read_deadline = \"3s\"");
    let hangs = |proxy: &EngineProxy| proxy.set_rules([every_request(&Fault::Hang)]);
    let still_running = |proxy: &EngineProxy| {
        proxy.set_rules([]);
        proxy.cut();
    };
    is_endured(&config, hangs, "no answer within 3 s", still_running);
}

#[test]
fn daemon_changes_nothing_while_engine_answers_500() {
    let degraded = Fault::Status(500, "database is locked".into());
    let degraded = |proxy: &EngineProxy| proxy.set_rules([every_request(&degraded)]);
    is_endured(HASTY, degraded, "database is locked", |proxy| proxy.set_rules([]));
}

#[test]
fn daemon_changes_nothing_while_engine_answers_404_to_everything() {
    let empty = Fault::Status(404, "no such thing".into());
    let empty = |proxy: &EngineProxy| proxy.set_rules([every_request(&empty)]);
    let proxy = EngineProxy::start();
    let mut site = Site::on(proxy.socket_path(), HASTY);
    let temptation = Temptation::prepare(&mut site, &proxy);
    proxy.listen();
    empty(&proxy);
    site.serve();
    for run in sweep(&site, &[]).as_array().unwrap().iter().filter(|run| requires_engine(run)) {
        assert_eq!(run["outcome"], "untrusted", "{run:#}");
    }
    temptation.assert_resisted(&site);
    proxy.set_rules([]);
    temptation.assert_given_in_to(&site);
}

#[test]
fn daemon_changes_nothing_while_engine_socket_is_inaccessible() {
    let proxy = EngineProxy::start();
    let mut site = Site::on(proxy.socket_path(), HASTY);
    if rustix::process::geteuid().is_root() {
        site.run_as(1000);
    }
    let agent_listeners = proxy.socket_path().parent().unwrap().to_owned();
    let open = |mode| fs::set_permissions(&agent_listeners, Permissions::from_mode(mode)).unwrap();
    let open_socket = || fs::set_permissions(proxy.socket_path(), Permissions::from_mode(0o666)).unwrap();
    open(0o755);
    open_socket();
    let temptation = Temptation::prepare(&mut site, &proxy);
    proxy.listen();
    open_socket();
    // Mode 000 excludes even the owner, in case the tests do not run as root.
    open(0o000);
    site.serve();
    assert_idle(&site, "Permission denied");
    temptation.assert_resisted(&site);
    open(0o755);
    temptation.assert_given_in_to(&site);
}

#[test]
fn unknown_grace_starts_over_after_engine_outage() {
    let proxy = EngineProxy::start();
    let config = HASTY.replace("unknown_grace = \"1s\"", "unknown_grace = \"5s\"");
    let mut site = Site::on(proxy.socket_path(), &config);
    site.serve();
    converge(&site);
    let nobody = uuid::Uuid::from_u128(site.instance().parse::<uuid::Uuid>().unwrap().as_u128() ^ 1);
    run_manually(&site.instance(), &nobody.to_string(), 1);
    let watched = sweep(&site, &["reap_unknown"]);
    assert_eq!(watched[0]["watching"].as_array().unwrap().len(), 1, "{watched:#}");
    proxy.set_rules([every_request(&Fault::Status(500, "unwell".into()))]);
    let begun = Instant::now();
    until("the grace is over", || {
        assert_eq!(sweep(&site, &["reap_unknown"])[0]["outcome"], "untrusted");
        (begun.elapsed() > Duration::from_secs(6)).then_some(())
    });
    proxy.set_rules([]);
    let back = sweep(&site, &["reap_unknown"]);
    assert_eq!(back[0]["actions"], Value::Array(Vec::new()), "time nobody was looking counted: {back:#}");
    assert_eq!(back[0]["watching"].as_array().unwrap().len(), 1, "{back:#}");
}

/// A Podman service on an empty storage of its own.
struct OtherStorage {
    directory: TempDir,
    service: Child,
}

impl OtherStorage {
    fn start() -> Self {
        let directory = tempfile::Builder::new().prefix("ostler-storage-").tempdir().unwrap();
        let at = |name: &str| directory.path().join(name).display().to_string();
        // Without mounts, which would outlive it.
        let storage = ["--storage-driver", "vfs"].map(str::to_owned).into_iter();
        let storage = storage.chain(["--root".into(), at("root"), "--runroot".into(), at("run")]);
        let service = podman()
            .args(storage)
            .args(["system", "service", "--time=0", &format!("unix://{}", at("podman.sock"))])
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("podman starts");
        let other = Self { directory, service };
        until("the other service listens", || {
            std::os::unix::net::UnixStream::connect(other.socket()).is_ok().then_some(())
        });
        other
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("podman.sock")
    }
}

impl Drop for OtherStorage {
    fn drop(&mut self) {
        let _ = self.service.kill();
        let _ = self.service.wait();
    }
}

/// Points a symbolic link to another socket.
fn lead(link: &Path, to: &Path) {
    let new = link.with_extension("new");
    symlink(to, &new).unwrap();
    fs::rename(new, link).unwrap();
}

#[test]
fn different_storage_is_not_trusted_until_operator_accepts_it() {
    let proxy = EngineProxy::start();
    let other = OtherStorage::start();
    let location = TempDir::new().unwrap();
    let link = location.path().join("podman.sock");
    lead(&link, proxy.socket_path());
    let mut site = Site::on(&link, HASTY);
    let temptation = Temptation::prepare(&mut site, &proxy);
    proxy.listen();
    lead(&link, &other.socket());
    site.serve();
    assert_idle(&site, "another storage");
    temptation.assert_resisted(&site);
    lead(&link, proxy.socket_path());
    temptation.assert_given_in_to(&site);

    make(&site, "moved");
    lead(&link, &other.socket());
    let sentinel = |run: &Value| text(&run["detail"]).contains("--accept-engine");
    assert!(sweep(&site, &[]).as_array().unwrap().iter().filter(|run| requires_engine(run)).all(sentinel));
    assert_eq!(site.show("moved")["status"], "online", "unknown moves no status");
    site.ostler(["doctor", "--accept-engine"]).well();
    until("what is not in the new engine is offline", || {
        sweep(&site, &["check_containers"]);
        (site.show("moved")["status"] == "offline").then_some(())
    });
    lead(&link, proxy.socket_path());
    until("what runs in the old engine is online", || {
        sweep(&site, &["check_containers"]);
        (site.show("moved")["status"] == "online").then_some(())
    });
    converge(&site);
    assert_truthful(&site);
}
