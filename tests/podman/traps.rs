//! Defects of podman-api. Each test shows a defect with a real Podman, and then ostler's workaround.
//!
//! If the first half of a test fails, podman-api has been fixed and the workaround can be removed.

use std::{panic::AssertUnwindSafe, time::Duration};

use futures_util::{FutureExt, StreamExt};
use ostler::{
    domain::ids::ContainerId,
    engine::{Engine, ErrorKind},
    runtime::clock::{SystemClock, within},
};
use podman_api::opts::{
    ContainerCreateOpts, ContainerDeleteOpts, ContainerLogsOpts, ContainerStopOpts, ExecStartOpts,
    NetworkCreateOpts, PullOpts,
};

use super::{LABEL, Scene, WAIT_LIMIT, request};
use crate::support::{
    engine_proxy::{EngineProxy, Fault, Rule},
    podman::{image, podman_output, socket_path},
};

fn crate_client() -> podman_api::Podman {
    podman_api::Podman::unix(socket_path())
}

/// Query string of the last request.
fn last_query(proxy: &EngineProxy) -> String {
    proxy.seen().pop().expect("a request was recorded").query
}

/// podman-api sends `no_new_privilages`, a misspelt name that Podman ignores.
#[tokio::test]
async fn no_new_privileges_is_sent_under_its_correct_name() {
    let scene = Scene::new();
    let security = |id: &str| podman_output(["inspect", "--format", "{{.HostConfig.SecurityOpt}}", id]);
    let options = ContainerCreateOpts::builder()
        .name(scene.name("crate"))
        .image(image())
        .labels(scene.labels())
        .no_new_privilages(true)
        .build();
    let theirs = crate_client().containers().create(&options).await.unwrap();
    assert!(!security(&theirs.id).contains("no-new-privileges"), "podman-api sends the correct name now");
    let ours = scene.created(&scene.spec("ours")).await;
    assert!(security(ours.as_str()).contains("no-new-privileges"));
}

/// podman-api sends the stop timeout as `Timeout=`, which Podman ignores.
#[tokio::test]
async fn stop_uses_the_given_grace_period() {
    let proxy = EngineProxy::start();
    let scene = Scene::behind(&proxy);
    let api = podman_api::Podman::unix(proxy.socket_path());
    proxy.set_rules([Rule::on("POST", "/stop", Fault::DropBefore).times(1)]);
    let options = ContainerStopOpts::builder().timeout(1).build();
    api.containers().get("x").stop(&options).await.unwrap_err();
    assert_eq!(last_query(&proxy), "Timeout=1", "podman-api sends the correct name now");

    let mut ignoring_sigterm =
        scene.script("ignoring-sigterm", "trap '' TERM; echo ready; while true; do sleep 1; done");
    ignoring_sigterm.stop_grace = Duration::from_hours(1);
    let id = scene.running(&ignoring_sigterm).await;
    // The test waits until the shell ignores SIGTERM. An earlier stop would end the shell by SIGTERM.
    let follow = ostler::engine::LogRequest { tail: None, follow: true, max_bytes: None };
    scene.engine.logs(&id, follow).await.unwrap().next().await.expect("the shell prints `ready`").unwrap();
    let stop = scene.engine.stop_container(&id, Duration::from_secs(1));
    let stopped = within(&SystemClock::start(), WAIT_LIMIT, stop).await;
    stopped.expect("the stop uses the given grace period, not the container's").unwrap();
    assert_eq!(scene.engine.inspect_container(&id).await.unwrap().exit_code, Some(137));
}

/// podman-api: even with `ignore`, a stop fails if the container does not run.
#[tokio::test]
async fn stop_of_stopped_container_succeeds() {
    let scene = Scene::new();
    let id = scene.running(&scene.spec("stopped")).await;
    scene.stopped(&id).await;
    let options = ContainerStopOpts::builder().ignore(true).build();
    let error = crate_client().containers().get(id.as_str()).stop(&options).await;
    error.expect_err("podman-api returns success now");
    scene.stopped(&id).await;
}

/// podman-api sends `v=` instead of `volumes=`, so anonymous volumes are left.
#[tokio::test]
async fn anonymous_volumes_are_deleted_with_their_container() {
    let proxy = EngineProxy::start();
    let api = podman_api::Podman::unix(proxy.socket_path());
    proxy.set_rules([Rule::on("DELETE", "/containers", Fault::DropBefore)]);
    let options = ContainerDeleteOpts::builder().volumes(true).build();
    api.containers().get("x").delete(&options).await.unwrap_err();
    assert_eq!(last_query(&proxy), "v=true", "podman-api sends the correct name now");

    let scene = Scene::new();
    let (name, label) = (scene.name("anonymous"), format!("{LABEL}={}", scene.label()));
    let id = podman_output(["create", "--name", &name, "--label", &label, "--volume", "/data", image()]);
    let id = ContainerId::try_from(id.trim().to_owned()).unwrap();
    let volumes = scene.engine.inspect_container(&id).await.unwrap().volumes;
    assert_eq!(volumes.len(), 1, "{volumes:?}");
    scene.engine.inspect_volume(&volumes[0]).await.expect("it is there");
    scene.engine.delete_container(&id).await.unwrap();
    let error = scene.engine.inspect_volume(&volumes[0]).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Absent, "{error}");
}

/// podman-api panics on a name with a space.
#[tokio::test]
async fn volume_name_with_space_returns_error() {
    let api = crate_client();
    let volume = api.volumes().get("a b");
    let panicked = AssertUnwindSafe(volume.exists()).catch_unwind().await;
    assert!(panicked.is_err(), "podman-api sends such a name or returns an error now");
    let error = Scene::new().engine.inspect_volume("a b").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Other, "{error}");
}

/// podman-api returns the error of a stream wrapped in other errors.
#[tokio::test]
async fn podman_api_wraps_stream_errors_in_other_errors() {
    let api = crate_client();
    let container = api.containers().get("0".repeat(64));
    let options = ContainerLogsOpts::builder().stdout(true).build();
    let mut log = container.logs(&options);
    let error = log.next().await.expect("an error").unwrap_err();
    let plain = matches!(error, podman_api::Error::Fault { .. });
    assert!(!plain, "podman-api returns the fault itself now");
}

/// podman-api returns success for a failed pull; the error is in the report.
#[tokio::test]
async fn podman_api_reports_failed_pull_as_success() {
    let api = crate_client();
    let images = api.images();
    let options = PullOpts::builder().reference("127.0.0.1:1/ostler-none:1").build();
    let reports: Vec<_> = images.pull(&options).collect().await;
    let hidden = reports.iter().any(|r| r.as_ref().is_ok_and(|r| r.error.is_some()));
    assert!(hidden, "podman-api or Podman reports the error in another way now: {reports:?}");
}

/// podman-api: every inspection measures the container's size.
#[tokio::test]
async fn inspect_does_not_request_container_size() {
    let proxy = EngineProxy::start();
    let scene = Scene::behind(&proxy);
    let id = scene.created(&scene.spec("inspected")).await;
    let api = podman_api::Podman::unix(proxy.socket_path());
    api.containers().get(id.as_str()).inspect().await.unwrap();
    assert_eq!(last_query(&proxy), "size=true", "podman-api does not request the size any more");
    scene.engine.inspect_container(&id).await.unwrap();
    assert_eq!(last_query(&proxy), "");
}

/// podman-api: a command can be started only through the handle that created it.
#[tokio::test]
async fn exec_is_started_by_its_id() {
    let scene = Scene::new();
    let id = scene.running(&scene.spec("host")).await;
    let exec = scene.engine.create_exec(&id, &request(&["true"])).await.unwrap();
    let refused =
        crate_client().execs().get(exec.0.as_str()).start(&ExecStartOpts::default()).await.map(drop);
    assert!(
        matches!(refused, Err(podman_api::Error::UncheckedExec)),
        "podman-api starts a command by its id now: {refused:?}"
    );
    drop(scene.engine.start_exec(&exec, false).await.unwrap());
    assert_eq!(scene.exit_code(&exec).await, 0);
}

/// podman-api: `remove()` is forced, which also deletes running containers.
#[tokio::test]
async fn volume_deletion_is_never_forced() {
    let proxy = EngineProxy::start();
    let api = podman_api::Podman::unix(proxy.socket_path());
    proxy.set_rules([Rule::on("DELETE", "/volumes", Fault::DropBefore)]);
    api.volumes().get("x").remove().await.unwrap_err();
    assert_eq!(last_query(&proxy), "force=true", "podman-api removes without force now");
    proxy.engine().delete_volume("x").await.unwrap_err();
    assert_eq!(last_query(&proxy), "");
}

/// podman-api: a network created without `dns_enabled` has no DNS.
#[tokio::test]
async fn ensure_network_enables_dns() {
    let scene = Scene::new();
    let dns = |name: &str| podman_output(["network", "inspect", name, "--format", "{{.DNSEnabled}}"]);
    let options = NetworkCreateOpts::builder().name(scene.name("crate")).labels(scene.labels()).build();
    crate_client().networks().create(&options).await.unwrap();
    assert_eq!(dns(&scene.name("crate")).trim(), "false", "DNS is on by default now");
    scene.engine.ensure_network(&scene.name("ours"), &scene.labels(), false).await.unwrap();
    assert_eq!(dns(&scene.name("ours")).trim(), "true");
}
