//! Engine calls when a real Podman does not answer, answers late, or answers with an error.

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use ostler::{
    domain::{ids::ContainerId, observed::ContainerState},
    engine::{
        Engine, ErrorKind, ExecRequest, LogRequest,
        bounded::{Bounded, Deadlines},
    },
    runtime::clock::SystemClock,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{LABEL, Scene, request, unframed};
use crate::support::{
    engine_proxy::{EngineProxy, Fault, Gate, Moment, Rule},
    podman::{engine_at, image, podman_output},
};

#[tokio::test]
async fn engine_calls_return_unreachable_when_socket_is_missing() {
    let nowhere = tempfile::tempdir().unwrap();
    let engine = engine_at(&nowhere.path().join("podman.sock"));
    let id = "0".repeat(64).try_into().unwrap();
    let errors = [
        engine.describe().await.map(drop).unwrap_err(),
        engine.list_containers(LABEL, None).await.map(drop).unwrap_err(),
        engine.list_volumes(LABEL, None).await.map(drop).unwrap_err(),
        engine.inspect_container(&id).await.map(drop).unwrap_err(),
        engine.stop_container(&id, Duration::ZERO).await.unwrap_err(),
        engine.delete_container(&id).await.unwrap_err(),
        engine.read_file(&id, "/f").await.map(drop).unwrap_err(),
        engine.pull_image("localhost/x", &|_| {}).await.unwrap_err(),
        engine
            .logs(&id, LogRequest { tail: None, follow: false, max_bytes: None })
            .await
            .map(drop)
            .unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind, ErrorKind::Unreachable, "{error}");
        assert!(error.message.contains("No such file") && error.message.contains("podman.sock"), "{error}");
    }
}

#[tokio::test]
async fn engine_calls_return_unreachable_until_socket_listens_again() {
    let proxy = EngineProxy::start();
    let engine = proxy.engine();
    engine.describe().await.expect("it listens");
    proxy.refuse();
    for error in [
        engine.describe().await.map(drop).unwrap_err(),
        engine.inspect_container(&"0".repeat(64).try_into().unwrap()).await.map(drop).unwrap_err(),
    ] {
        assert_eq!(error.kind, ErrorKind::Unreachable, "{error}");
        assert!(error.message.contains("refused"), "{error}");
    }
    proxy.listen();
    engine.describe().await.expect("it listens again");
}

#[tokio::test]
async fn connection_closed_without_answer_returns_unreachable() {
    let proxy = EngineProxy::start();
    let engine = proxy.engine();
    let id = "0".repeat(64).try_into().unwrap();
    proxy.set_rules([Rule::when(|_| true, Fault::DropBefore)]);
    for error in [
        engine.list_containers(LABEL, None).await.map(drop).unwrap_err(),
        engine.inspect_container(&id).await.map(drop).unwrap_err(),
        engine.stop_container(&id, Duration::ZERO).await.unwrap_err(),
        engine.pull_image("localhost/x", &|_| {}).await.unwrap_err(),
    ] {
        assert_eq!(error.kind, ErrorKind::Unreachable, "{error}");
    }
}

#[tokio::test]
async fn status_500_returns_other_error_with_shortened_message() {
    let proxy = EngineProxy::start();
    let engine = proxy.engine();
    let id = "0".repeat(64).try_into().unwrap();
    let message = format!("database is locked\n{}", "x".repeat(5000));
    proxy.set_rules([Rule::when(|_| true, Fault::Status(500, message))]);
    for error in [
        engine.list_containers(LABEL, None).await.map(drop).unwrap_err(),
        engine.list_volumes(LABEL, None).await.map(drop).unwrap_err(),
        engine.inspect_container(&id).await.map(drop).unwrap_err(),
        engine.stop_container(&id, Duration::ZERO).await.unwrap_err(),
        engine.delete_container(&id).await.unwrap_err(),
        engine.delete_volume("v").await.unwrap_err(),
    ] {
        assert_eq!(error.kind, ErrorKind::Other, "{error}");
        assert!(error.message.starts_with("database is locked x"), "{error}");
        assert!(error.message.chars().count() < 600, "{error}");
    }
}

#[tokio::test]
async fn listing_error_for_status_404_has_kind_other_and_not_absent() {
    let proxy = EngineProxy::start();
    let engine = proxy.engine();
    proxy.set_rules([Rule::when(|_| true, Fault::Status(404, "no such container".into()))]);
    for error in [
        engine.list_containers(LABEL, None).await.map(drop).unwrap_err(),
        engine.list_volumes(LABEL, None).await.map(drop).unwrap_err(),
    ] {
        assert_eq!(error.kind, ErrorKind::Other, "{error}");
    }
}

/// Podman 4.3.1 fails a whole listing if one volume is deleted meanwhile.
#[tokio::test]
async fn volume_listing_is_retried_after_concurrent_deletion_error() {
    let proxy = EngineProxy::start();
    let scene = Scene::behind(&proxy);
    scene.volume("work", "/workspace").await;
    let message = "no volume with name x found in database: no such volume: no such volume";
    proxy.set_rules([Rule::on("GET", "/json", Fault::Status(500, message.into())).times(2)]);
    let listed = scene.engine.list_volumes(LABEL, Some(&scene.label())).await.unwrap();
    assert_eq!(listed.len(), 1, "{listed:?}");
}

/// podman-api has no timeouts.
#[tokio::test]
async fn call_to_hanging_engine_times_out() {
    let proxy = EngineProxy::start();
    let soon = Duration::from_millis(200);
    let deadlines = Deadlines { read: soon, change: soon, pull: soon };
    let engine = Bounded::new(Arc::new(proxy.engine()), Arc::new(SystemClock::start()), deadlines);
    let id = "0".repeat(64).try_into().unwrap();
    proxy.set_rules([Rule::when(|_| true, Fault::Hang)]);
    for error in [
        engine.list_containers(LABEL, None).await.map(drop).unwrap_err(),
        engine.inspect_container(&id).await.map(drop).unwrap_err(),
        engine.stop_container(&id, Duration::ZERO).await.unwrap_err(),
    ] {
        assert_eq!(error.kind, ErrorKind::TimedOut, "{error}");
    }
    proxy.set_rules([]);
    engine.list_volumes(LABEL, Some("absent")).await.expect("a request after a timed-out one succeeds");
}

#[tokio::test]
async fn call_with_lost_answer_may_have_taken_effect() {
    let proxy = EngineProxy::start();
    let scene = Scene::behind(&proxy);
    let id = scene.created(&scene.spec("lost")).await;
    proxy.set_rules([Rule::on("POST", "/start", Fault::DropAfter)]);
    let error = scene.engine.start_container(&id).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unreachable, "{error}");
    assert_eq!(scene.engine.inspect_container(&id).await.unwrap().state, ContainerState::Running);
    proxy.set_rules([Rule::on("POST", "/stop", Fault::DropAfter)]);
    let error = scene.engine.stop_container(&id, Duration::from_secs(5)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unreachable, "{error}");
    assert_eq!(scene.engine.inspect_container(&id).await.unwrap().state, ContainerState::Exited);
}

#[tokio::test]
async fn proxy_delivers_delayed_answer_when_gate_opens() {
    let proxy = EngineProxy::start();
    let scene = Scene::behind(&proxy);
    let id = scene.created(&scene.spec("late")).await;
    let gate = Gate::default();
    proxy.set_rules([Rule::on("POST", "/start", Fault::DelayAnswer(gate.clone()))]);
    let start = scene.engine.start_container(&id);
    let watch = async {
        gate.arrival().await;
        let state = scene.engine.inspect_container(&id).await.unwrap().state;
        gate.open();
        state
    };
    let (started, state_before_the_answer) = tokio::join!(start, watch);
    started.unwrap();
    assert_eq!(state_before_the_answer, ContainerState::Running);
}

#[tokio::test]
async fn proxy_selects_fault_before_observer_runs() {
    let proxy = Arc::new(EngineProxy::start());
    let scene = Scene::behind(&proxy);
    let rules = Arc::downgrade(&proxy);
    proxy.set_rules([Rule::on("POST", "/volumes/create", Fault::DropBefore)]);
    proxy.observe(move |_, _| {
        // This simulates a test whose observer kills the daemon: the test may see that the daemon is dead, and clear
        // the rules, before the observer has returned.
        if let Some(proxy) = rules.upgrade() {
            proxy.set_rules([]);
        }
    });
    let volume =
        ostler::engine::VolumeSpec { name: scene.name("late"), labels: scene.labels(), owner: super::AGENT };
    scene.engine.create_volume(&volume).await.expect_err("the rule applied when the request arrived");
}

#[tokio::test]
async fn proxy_counts_rule_matches_and_observes_request_and_answer() {
    let proxy = EngineProxy::start();
    let scene = Scene::behind(&proxy);
    let observed = Arc::new(Mutex::new(Vec::new()));
    let record = Arc::clone(&observed);
    proxy.observe(move |request, moment| {
        if request.changes() {
            record.lock().unwrap().push((request.change, moment));
        }
    });
    let refused = Fault::Status(500, "the second one".into());
    proxy.set_rules([Rule::on("POST", "/volumes/create", refused).after(1).times(1)]);
    scene.volume("first", "/a").await;
    let second = ostler::engine::VolumeSpec {
        name: scene.name("second"),
        labels: scene.labels(),
        owner: super::AGENT,
    };
    scene.engine.create_volume(&second).await.unwrap_err();
    scene.engine.create_volume(&second).await.expect("the rule does not apply any more");
    proxy.until(|seen| seen.len() >= 3).await;
    assert_eq!(proxy.count("POST", "/volumes/create"), 3);
    let moments = observed.lock().unwrap().clone();
    assert_eq!(
        moments,
        [
            (Some(0), Moment::Arrived),
            (Some(0), Moment::Answered),
            (Some(1), Moment::Arrived),
            (Some(2), Moment::Arrived),
            (Some(2), Moment::Answered),
        ]
    );
}

#[tokio::test]
async fn proxy_refuse_fault_closes_socket_for_later_requests() {
    let proxy = EngineProxy::start();
    let engine = proxy.engine();
    proxy.set_rules([Rule::on("GET", "/containers/json", Fault::Refuse)]);
    engine.list_volumes(LABEL, Some("absent")).await.expect("the socket still accepts connections");
    engine.list_containers(LABEL, None).await.unwrap_err();
    let error = engine.list_volumes(LABEL, Some("absent")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unreachable, "{error}");
    assert!(Path::new(proxy.socket_path()).exists(), "the socket file was deleted; after a crash it stays");
}

#[tokio::test]
async fn exec_and_files_pass_through_the_proxy() {
    let proxy = EngineProxy::start();
    let scene = Scene::behind(&proxy);
    let mount = scene.volume("config", "/configs").await;
    let id =
        scene.running(&ostler::engine::ContainerSpec { mounts: vec![mount], ..scene.spec("host") }).await;
    scene.engine.write_file(&id, "/configs", &super::token_file("through")).await.unwrap();
    assert_eq!(scene.engine.read_file(&id, "/configs/.auth_token").await.unwrap(), b"through");
    let exec_request = ExecRequest { stdin: true, ..request(&["cat"]) };
    let exec = scene.engine.create_exec(&id, &exec_request).await.unwrap();
    let mut stream = scene.engine.start_exec(&exec, false).await.unwrap();
    stream.write_all(b"typed").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut output = Vec::new();
    stream.read_to_end(&mut output).await.unwrap();
    assert_eq!(unframed(&output), ["typed", ""]);
}

#[tokio::test]
async fn interrupted_log_stream_ends_with_unreachable_error() {
    use futures_util::StreamExt;
    let proxy = EngineProxy::start();
    let scene = Scene::behind(&proxy);
    // ostler reads a log's file only if its path contains the container's id. This one does not, so the log is read
    // over the socket.
    let directory = tempfile::tempdir().expect("a directory");
    let options = format!("path={}", directory.path().join("other.log").display());
    let label = format!("{LABEL}={}", scene.id);
    let id = podman_output(
        [
            ["run", "-d", "--label", &label, "--log-driver", "k8s-file", "--log-opt", &options].as_slice(),
            &["--network", "none", image(), "sh", "-c", "echo one; exec sleep 600"],
        ]
        .concat(),
    );
    let id: ContainerId = id.trim().to_owned().try_into().expect("an id");
    let mut log =
        scene.engine.logs(&id, LogRequest { tail: None, follow: true, max_bytes: None }).await.unwrap();
    assert_eq!(log.next().await.expect("a line").unwrap().bytes, b"one\n");
    proxy.cut();
    let error = log.next().await.expect("an error, not the end").unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unreachable, "{error}");
}
