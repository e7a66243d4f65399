//! The output of a container.

use std::{fs, path::PathBuf};

use futures_util::StreamExt;
use ostler::{
    domain::{ids::ContainerId, runtime::Limits},
    engine::{ContainerSpec, Engine, ErrorKind, LogRequest, LogStream, log_tail},
};

use super::{LABEL, Scene, WAIT_LIMIT, eventually};
use crate::support::podman::{Service, ServiceProcess, engine_at, image, inspected, podman_output};

async fn read(mut log: LogStream) -> [String; 2] {
    let mut read = [String::new(), String::new()];
    while let Some(chunk) = log.next().await {
        let chunk = chunk.expect("the log is read");
        read[usize::from(chunk.stderr)] += std::str::from_utf8(&chunk.bytes).expect("the log is text");
    }
    read
}

const WHOLE: LogRequest = LogRequest { tail: None, follow: false, max_bytes: None };

#[tokio::test]
async fn logs_return_both_streams_and_follow_ends_with_container() {
    let scene = Scene::new();
    let script = "echo one; echo two >&2; sleep 0.3; echo three";
    let id = scene.running(&scene.script("printer", script)).await;
    let followed =
        read(scene.engine.logs(&id, LogRequest { tail: None, follow: true, max_bytes: None }).await.unwrap())
            .await;
    assert_eq!(followed, ["one\nthree\n", "two\n"]);
    let kept = eventually("the last line is written", || async {
        let kept = read(scene.engine.logs(&id, WHOLE).await.unwrap()).await;
        kept[0].contains("three").then_some(kept)
    })
    .await;
    assert_eq!(kept, followed);
    let tail = read(
        scene.engine.logs(&id, LogRequest { tail: Some(1), follow: false, max_bytes: None }).await.unwrap(),
    )
    .await;
    assert_eq!(tail, ["three\n", ""]);
}

#[tokio::test]
async fn container_that_never_ran_has_empty_log() {
    let scene = Scene::new();
    let id = scene.created(&scene.spec("never-started")).await;
    assert_eq!(read(scene.engine.logs(&id, WHOLE).await.unwrap()).await, ["", ""]);
}

/// podman-api: the error of a stream is nested, and appears only when the stream is polled.
#[tokio::test]
async fn log_of_deleted_container_returns_absent_error() {
    let scene = Scene::new();
    let id = scene.created(&scene.spec("gone")).await;
    scene.engine.delete_container(&id).await.unwrap();
    for follow in [false, true] {
        let error = scene
            .engine
            .logs(&id, LogRequest { tail: None, follow, max_bytes: None })
            .await
            .map(drop)
            .unwrap_err();
        assert_eq!(error.kind, ErrorKind::Absent, "{error}");
    }
}

#[tokio::test]
async fn log_returns_absent_when_container_is_deleted_before_read() {
    let scene = Scene::new();
    let id = scene.created(&scene.spec("going")).await;
    let mut log = scene.engine.logs(&id, WHOLE).await.unwrap();
    scene.engine.delete_container(&id).await.unwrap();
    let error = log.next().await.expect("an error").unwrap_err();
    assert_eq!(error.kind, ErrorKind::Absent, "{error}");
}

impl Scene {
    /// A container with its own log limit and enough resources to fill the log.
    fn writer(&self, what: &str, log_bytes: u64, script: &str) -> ContainerSpec {
        let limits = Limits { memory_bytes: 64 << 20, cpus: 2.0, pids: 64 };
        ContainerSpec { limits, log_bytes, ..self.script(what, script) }
    }

    async fn log(&self, id: &ContainerId, tail: Option<u32>) -> [String; 2] {
        let request = LogRequest { tail, follow: false, max_bytes: None };
        read(self.engine.logs(id, request).await.expect("the log is read")).await
    }
}

fn log_file(id: &ContainerId) -> PathBuf {
    inspected(id.as_str(), "{{.HostConfig.LogConfig.Path}}").expect("the container is there").into()
}

fn log_size(id: &ContainerId) -> u64 {
    fs::metadata(log_file(id)).map_or(0, |file| file.len())
}

/// When a tail that contains such a line is requested from Podman 4.3, the service joins the line's records in
/// quadratic time, which in practice never ends.
#[tokio::test]
async fn podman_service_is_idle_after_tail_of_60_mb_line_is_read() {
    const BYTES: usize = 60_000_000;
    let service = Service::start();
    let scene = Scene::of(engine_at(&service.socket()));
    let process = ServiceProcess::of(&service.socket());
    let script =
        "printf '1%%\\r2%%\\r' >&2; head -c 60000000 /dev/zero | tr '\\0' x; echo end >&2; exec sleep 600";
    let id = scene.running(&scene.writer("endless", 1 << 30, script)).await;
    let before = process.peak_kib();
    eventually("most of it is written", || async { (log_size(&id) > BYTES as u64).then_some(()) }).await;
    // conmon reads the two pipes in any order, so the test waits for the end of both.
    eventually("all is written", || async {
        let [out, err] = scene.log(&id, None).await;
        (out.len() == BYTES && err == "1%\r2%\rend\n").then_some(())
    })
    .await;

    let tail = log_tail(&scene.engine, &id, 50, 8192).await.expect("its tail is read");
    assert_eq!(tail.len(), 8192);
    assert!(tail.replace("end\n", "").chars().all(|c| c == 'x'), "{tail}");
    let [out, err] = scene.log(&id, Some(2)).await;
    assert!(out.len() < 16 << 20 && out.len() > 15 << 20, "{} bytes of output", out.len());
    assert_eq!(err, "end\n", "a line that begins before the window was returned");
    let follow = LogRequest { tail: Some(1), follow: true, max_bytes: None };
    let mut followed = scene.engine.logs(&id, follow).await.expect("it is followed");
    followed.next().await.expect("an item").expect("the log is read");
    drop(followed);

    process.is_idle_within(WAIT_LIMIT).await.unwrap_or_else(|why| panic!("{why}"));
    let grown = process.peak_kib().saturating_sub(before) >> 10;
    assert!(grown < 32, "the service grew by {grown} MiB");
}

/// The path of this log does not contain the container's id, so ostler does not read the file. It requests the whole
/// log from the service, never a tail.
#[tokio::test]
async fn podman_service_is_idle_after_it_sends_a_whole_log() {
    let service = Service::start();
    let scene = Scene::of(engine_at(&service.socket()));
    let process = ServiceProcess::of(&service.socket());
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("other.log");
    let script = "head -c 4000000 /dev/zero | tr '\\0' x; echo; seq 1 100000; printf open; exec sleep 600";
    let label = format!("{LABEL}={}", scene.id);
    let options = format!("path={}", path.display());
    let id = podman_output(
        [
            ["run", "-d", "--label", &label, "--log-driver", "k8s-file", "--log-opt", &options].as_slice(),
            &["--network", "none", image(), "sh", "-c", script],
        ]
        .concat(),
    );
    let id: ContainerId = id.trim().to_owned().try_into().expect("an id");
    eventually("all is written", || async {
        fs::read(&path).is_ok_and(|log| log.ends_with(b" P open\n")).then_some(())
    })
    .await;
    assert_eq!(scene.log(&id, Some(3)).await, ["99999\n100000\nopen", ""]);
    let [out, _] = scene.log(&id, Some(100_002)).await;
    assert_eq!((out.len(), out.lines().count()), (4_000_001 + 588_895 + 4, 100_002));
    process.is_idle_within(WAIT_LIMIT).await.unwrap_or_else(|why| panic!("{why}"));
}

#[tokio::test]
async fn log_stays_within_size_limit_while_followed() {
    const LIMIT: u64 = 1 << 20;
    let scene = Scene::new();
    // Short lines, then a long text without a newline, and then short lines again.
    let script =
        "seq 1 300000; head -c 5000000 /dev/zero | tr '\\0' x; seq 1 20000; echo last; exec sleep 600";
    let id = scene.running(&scene.writer("printer", LIMIT, script)).await;
    let follow = LogRequest { tail: None, follow: true, max_bytes: None };
    let mut followed = scene.engine.logs(&id, follow).await.expect("it is followed");
    let mut received = Vec::new();
    while !received.ends_with(b"last\n") {
        received
            .extend(followed.next().await.expect("the stream has not ended").expect("the log is read").bytes);
        assert!(log_size(&id) <= LIMIT, "the log has {} bytes", log_size(&id));
    }
    let [out, _] = scene.log(&id, Some(3)).await;
    assert_eq!(out, "19999\n20000\nlast\n");
}

#[tokio::test]
async fn tail_of_a_million_lines_is_exact() {
    let scene = Scene::new();
    let id = scene.running(&scene.writer("counter", 1 << 30, "seq 1 1000000; exec sleep 600")).await;
    eventually("all is written", || async {
        scene.log(&id, Some(1)).await[0].starts_with("1000000").then_some(())
    })
    .await;
    let [out, _] = scene.log(&id, Some(100_000)).await;
    assert!(out.starts_with("900001\n") && out.lines().count() == 100_000, "{} lines", out.lines().count());
}

#[tokio::test]
async fn log_read_ends_while_the_log_keeps_growing() {
    let scene = Scene::new();
    let id = scene.running(&scene.writer("yes", 10 << 20, "exec yes")).await;
    eventually("the log has 1 MiB", || async { (log_size(&id) > 1 << 20).then_some(()) }).await;
    for tail in [None, Some(1000)] {
        let [out, _] = scene.log(&id, tail).await;
        assert!(out.lines().all(|line| line == "y"), "a line was cut");
    }
}
