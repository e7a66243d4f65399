//! An engine that is missing, does not answer, refuses connections, or belongs to another user or storage. No pass
//! changes anything, and every answer gives the reason. When the engine answers again, the passes do the remaining
//! work.

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

/// Work for every pass that removes or stops an object.
struct PendingWork {
    /// Container that runs although its workspace was removed.
    removed: String,
    /// Container that runs and is unknown to the registry.
    unknown: String,
    /// Container that runs although its workspace is paused.
    resting: String,
    /// A workspace with a live token and no container.
    orphan: String,
}

impl PendingWork {
    /// Prepares all of this work. Afterwards no daemon runs.
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
        let unknown_id = uuid::Uuid::from_u128(site.instance().parse::<uuid::Uuid>().unwrap().as_u128() ^ 1);
        let unknown = run_manually(&site.instance(), &unknown_id.to_string(), 1);
        Self { removed: removed.1, unknown, resting: resting.1, orphan: orphan.0 }
    }

    #[track_caller]
    fn assert_untouched(&self, site: &Site) {
        let existing = containers(&site.instance());
        for id in [&self.removed, &self.unknown, &self.resting] {
            let container = existing.iter().find(|container| container.id == *id);
            let container = container.unwrap_or_else(|| panic!("{id} is missing: {existing:#?}"));
            assert!(
                container.runs && !container.name.contains("trash"),
                "a container was changed: {container:?}"
            );
        }
        assert_eq!(live_digests(site, &self.orphan).len(), 1, "a token was revoked");
    }

    #[track_caller]
    fn assert_done_eventually(&self, site: &Site) {
        until("the passes have done the remaining work", || {
            sweep(site, &[]);
            let existing = containers(&site.instance());
            let at_rest = existing.iter().all(|container| !container.runs);
            let move_to_trash = [&self.removed, &self.unknown].iter().all(|id| {
                existing.iter().any(|container| container.id == **id && container.name.contains("trash"))
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
        assert!(text(&run["detail"]).contains(why), "`{why}` is not reported: {run:#}");
        assert_eq!(run["actions"], Value::Array(Vec::new()), "{run:#}");
    }
    let doctor = site.ostler(["doctor"]);
    assert!(
        doctor.code == 1 && doctor.stdout.contains(why),
        "the doctor does not report `{why}`: {doctor:?}"
    );
    assert!(doctor.stdout.contains("no sweep pass changes anything"), "{doctor:?}");
    assert!(site.ostler(["ls"]).well().contains("resting"));
    let start = site.ostler(["start", "resting"]);
    let accepted = start.code == 0 && start.stdout.contains("is accepted") && start.stdout.contains(why);
    let refused = start.code == 1 && start.stderr.contains(why);
    assert!(accepted || refused, "a start without an engine reports no reason: {start:?}");
    if accepted {
        let open = site.ostler(["operations", "ls", "resting", "--open", "--json"]).well();
        let open: Value = serde_json::from_str(&open).expect("it is JSON");
        let id = open[0]["id"].to_string();
        assert!(site.ostler(["operations", "cancel", &id]).well().contains("was cancelled"));
    }
    assert_eq!(site.show("resting")["status"], "paused");
}

fn changes(proxy: &EngineProxy) -> usize {
    proxy.seen().iter().filter(|request| request.changes()).count()
}

/// Asserts that a daemon started during an engine fault changes nothing and reports `why`, and that the passes do the
/// remaining work once the fault has ended.
fn assert_survives_engine_fault(
    config: &str,
    begin_fault: impl Fn(&EngineProxy),
    why: &str,
    end_fault: impl Fn(&EngineProxy),
) {
    let proxy = EngineProxy::start();
    let mut site = Site::on(proxy.socket_path(), HASTY);
    let pending_work = PendingWork::prepare(&mut site, &proxy);
    proxy.listen();
    // Set only now, so that a busy engine does not time out during the preparation.
    site.configure(config);
    begin_fault(&proxy);
    let before = changes(&proxy);
    site.serve();
    assert_idle(&site, why);
    assert_eq!(changes(&proxy), before, "a changing request was sent");
    pending_work.assert_untouched(&site);
    end_fault(&proxy);
    pending_work.assert_done_eventually(&site);
}

fn every_request(fault: &Fault) -> Rule {
    Rule::when(|_| true, fault.clone())
}

#[test]
fn daemon_changes_nothing_while_engine_socket_is_missing() {
    let remove_socket = |proxy: &EngineProxy| {
        proxy.refuse();
        fs::remove_file(proxy.socket_path()).unwrap();
    };
    assert_survives_engine_fault(HASTY, remove_socket, "No such file", EngineProxy::listen);
}

#[test]
fn daemon_changes_nothing_while_engine_refuses_connections() {
    assert_survives_engine_fault(HASTY, EngineProxy::refuse, "onnection refused", EngineProxy::listen);
}

#[test]
fn daemon_changes_nothing_while_engine_hangs() {
    let config = HASTY.replace("read_deadline = \"10s\"", "read_deadline = \"3s\"");
    let hang = |proxy: &EngineProxy| proxy.set_rules([every_request(&Fault::Hang)]);
    let end_hang = |proxy: &EngineProxy| {
        proxy.set_rules([]);
        proxy.cut();
    };
    assert_survives_engine_fault(&config, hang, "no answer within 3 s", end_hang);
}

#[test]
fn daemon_changes_nothing_while_engine_answers_500() {
    let degraded = Fault::Status(500, "database is locked".into());
    let degraded = |proxy: &EngineProxy| proxy.set_rules([every_request(&degraded)]);
    assert_survives_engine_fault(HASTY, degraded, "database is locked", |proxy| proxy.set_rules([]));
}

#[test]
fn daemon_changes_nothing_while_engine_answers_404_to_everything() {
    let not_found = Fault::Status(404, "no such thing".into());
    let not_found = |proxy: &EngineProxy| proxy.set_rules([every_request(&not_found)]);
    let proxy = EngineProxy::start();
    let mut site = Site::on(proxy.socket_path(), HASTY);
    let pending_work = PendingWork::prepare(&mut site, &proxy);
    proxy.listen();
    not_found(&proxy);
    site.serve();
    for run in sweep(&site, &[]).as_array().unwrap().iter().filter(|run| requires_engine(run)) {
        assert_eq!(run["outcome"], "untrusted", "{run:#}");
    }
    pending_work.assert_untouched(&site);
    proxy.set_rules([]);
    pending_work.assert_done_eventually(&site);
}

#[test]
fn daemon_changes_nothing_while_engine_socket_is_inaccessible() {
    let proxy = EngineProxy::start();
    let mut site = Site::on(proxy.socket_path(), HASTY);
    if rustix::process::geteuid().is_root() {
        site.run_as(1000);
    }
    let socket_directory = proxy.socket_path().parent().unwrap().to_owned();
    let open = |mode| fs::set_permissions(&socket_directory, Permissions::from_mode(mode)).unwrap();
    let open_socket = || fs::set_permissions(proxy.socket_path(), Permissions::from_mode(0o666)).unwrap();
    open(0o755);
    open_socket();
    let pending_work = PendingWork::prepare(&mut site, &proxy);
    proxy.listen();
    open_socket();
    // Mode 000 denies access even to the owner, for the case that the tests do not run as root.
    open(0o000);
    site.serve();
    assert_idle(&site, "Permission denied");
    pending_work.assert_untouched(&site);
    open(0o755);
    pending_work.assert_done_eventually(&site);
}

#[test]
fn unknown_grace_starts_over_after_engine_outage() {
    let proxy = EngineProxy::start();
    let config = HASTY.replace("unknown_grace = \"1s\"", "unknown_grace = \"5s\"");
    let mut site = Site::on(proxy.socket_path(), &config);
    site.serve();
    converge(&site);
    let unknown_id = uuid::Uuid::from_u128(site.instance().parse::<uuid::Uuid>().unwrap().as_u128() ^ 1);
    run_manually(&site.instance(), &unknown_id.to_string(), 1);
    let watched = sweep(&site, &["reap_unknown"]);
    assert_eq!(watched[0]["watching"].as_array().unwrap().len(), 1, "{watched:#}");
    proxy.set_rules([every_request(&Fault::Status(500, "degraded".into()))]);
    let begun = Instant::now();
    until("the grace is over", || {
        assert_eq!(sweep(&site, &["reap_unknown"])[0]["outcome"], "untrusted");
        (begun.elapsed() > Duration::from_secs(6)).then_some(())
    });
    proxy.set_rules([]);
    let back = sweep(&site, &["reap_unknown"]);
    assert_eq!(
        back[0]["actions"],
        Value::Array(Vec::new()),
        "the engine outage counted towards the grace: {back:#}"
    );
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
        // The driver `vfs` makes no mounts, which would remain after the service has ended.
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
fn point_link(link: &Path, to: &Path) {
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
    point_link(&link, proxy.socket_path());
    let mut site = Site::on(&link, HASTY);
    let pending_work = PendingWork::prepare(&mut site, &proxy);
    proxy.listen();
    point_link(&link, &other.socket());
    site.serve();
    assert_idle(&site, "another storage");
    pending_work.assert_untouched(&site);
    point_link(&link, proxy.socket_path());
    pending_work.assert_done_eventually(&site);

    make(&site, "moved");
    point_link(&link, &other.socket());
    let sentinel = |run: &Value| text(&run["detail"]).contains("--accept-engine");
    assert!(sweep(&site, &[]).as_array().unwrap().iter().filter(|run| requires_engine(run)).all(sentinel));
    assert_eq!(site.show("moved")["status"], "online", "an untrusted listing changed a status");
    site.ostler(["doctor", "--accept-engine"]).well();
    until("a workspace missing in the new engine is offline", || {
        sweep(&site, &["check_containers"]);
        (site.show("moved")["status"] == "offline").then_some(())
    });
    point_link(&link, proxy.socket_path());
    until("a workspace running in the old engine is online", || {
        sweep(&site, &["check_containers"]);
        (site.show("moved")["status"] == "online").then_some(())
    });
    converge(&site);
    assert_truthful(&site);
}
