//! Container events as reported by Podman.

use std::{
    process::{Child, Stdio},
    sync::Arc,
    time::Duration,
};

use futures_util::{FutureExt, StreamExt};
use ostler::{
    domain::{
        ids::{ContainerId, WorkspaceId},
        naming::LABEL_WORKSPACE,
        observed::{ContainerEvent, ContainerEventKind, ContainerState},
    },
    engine::{
        Engine, EngineError, ErrorKind, EventStream, LogRequest,
        bounded::{Bounded, Deadlines},
        tail::log_tail,
    },
    runtime::{
        clock::{Clock, SystemClock, within},
        entropy::{Entropy, SystemEntropy},
    },
};

use super::{LABEL, Scene, WAIT_LIMIT, eventually};
use crate::support::{
    engine_proxy::{EngineProxy, Fault, Gate, Rule},
    podman::{engine_at, podman, podman_output},
};

async fn next(events: &mut EventStream) -> Option<Result<ContainerEvent, EngineError>> {
    let next = within(&SystemClock::start(), WAIT_LIMIT, events.next()).await;
    next.expect("an event or the end of the stream within the time limit")
}

async fn event(events: &mut EventStream) -> ContainerEvent {
    next(events).await.expect("the stream has not ended").expect("an event, no error")
}

/// Returns the next event that is not a start. On a busy machine, a subscription was seen to report a start whose call
/// had returned before.
async fn event_after_start(events: &mut EventStream) -> ContainerEvent {
    loop {
        let event = event(events).await;
        if event.what != ContainerEventKind::Started {
            return event;
        }
    }
}

/// Receives `count` events and returns the container and kind of each.
async fn receive_events(events: &mut EventStream, count: usize) -> Vec<(ContainerId, ContainerEventKind)> {
    let mut received = Vec::new();
    for _ in 0..count {
        let ContainerEvent { container, what, .. } = event(events).await;
        received.push((container, what));
    }
    received
}

/// Kills the process of a container without Podman, as the kernel does when memory runs out.
fn kill_process(id: &ContainerId) {
    let pid = podman_output(["inspect", "--format", "{{.State.Pid}}", id.as_str()]);
    let pid = rustix::process::Pid::from_raw(pid.trim().parse().expect("a process id")).expect("it runs");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("its process is killed");
}

const DIED: ContainerEventKind = ContainerEventKind::Died { exit_code: Some(137) };

#[tokio::test]
async fn killed_container_is_reported_with_exit_code_and_workspace() {
    let (scene, other_scene) = (Scene::new(), Scene::new());
    let workspace = WorkspaceId(SystemEntropy.uuid());
    let mut spec = scene.spec("labelled");
    spec.labels.insert(LABEL_WORKSPACE.to_owned(), workspace.to_string());
    let id = scene.running(&spec).await;
    let other = other_scene.running(&other_scene.spec("other-label")).await;
    let mut events = scene.engine.container_events(LABEL, Some(&scene.label()), None).await.unwrap();
    let before = SystemClock::start().now();
    kill_process(&other);
    other_scene.engine.delete_container(&ended(&other_scene, other).await).await.unwrap();
    kill_process(&id);
    let died = event_after_start(&mut events).await;
    assert_eq!((&died.container, died.workspace, died.what), (&id, Some(workspace), DIED));
    let after = SystemClock::start().now();
    assert!((before..=after).contains(&died.at), "{} is not in {before}..{after}", died.at);
    scene.engine.delete_container(&ended(&scene, id.clone()).await).await.unwrap();
    assert_eq!(receive_events(&mut events, 1).await, [(id, ContainerEventKind::Removed)]);
    assert!(events.next().now_or_never().is_none(), "there are more events, or the stream ended");
}

/// Returns the container once Podman reports it as exited.
async fn ended(scene: &Scene, id: ContainerId) -> ContainerId {
    eventually("Podman has recorded the exit", || async {
        let state = scene.engine.inspect_container(&id).await.expect("it is there").state;
        (state == ContainerState::Exited).then_some(())
    })
    .await;
    id
}

#[tokio::test]
async fn starts_and_stops_are_reported_when_filtering_by_label_key() {
    let scene = Scene::new();
    // Uses a separate label key, because all tests have containers with the key `LABEL`.
    let key = format!("{LABEL}.{}", scene.id);
    let mut spec = scene.spec("keyed");
    spec.labels.insert(key.clone(), "any".to_owned());
    let mut events = scene.engine.container_events(&key, None, None).await.unwrap();
    let unkeyed = scene.running(&scene.spec("unkeyed")).await;
    let id = scene.running(&spec).await;
    scene.stopped(&id).await;
    scene.stopped(&unkeyed).await;
    let received = receive_events(&mut events, 2).await;
    assert!(
        matches!(
            &received[..],
            [(a, ContainerEventKind::Started), (b, ContainerEventKind::Died { exit_code: Some(_) })]
                if (a, b) == (&id, &id)
        ),
        "{received:?}"
    );
}

#[tokio::test]
async fn events_since_a_timestamp_are_replayed_on_subscription() {
    let scene = Scene::new();
    let since = SystemClock::start().now();
    let id = scene.running(&scene.spec("missed")).await;
    kill_process(&id);
    ended(&scene, id.clone()).await;
    let label = scene.label();
    let mut events = scene.engine.container_events(LABEL, Some(&label), Some(since)).await.unwrap();
    let missed = [(id.clone(), ContainerEventKind::Started), (id.clone(), DIED)];
    assert_eq!(receive_events(&mut events, 2).await, missed);
    scene.engine.delete_container(&id).await.unwrap();
    assert_eq!(
        receive_events(&mut events, 1).await,
        [(id, ContainerEventKind::Removed)],
        "a new event was not reported after the replayed ones"
    );
}

/// With Podman 5.1 and 5.2 the call would not return, because they send the response head only with the first event.
#[tokio::test]
async fn event_subscription_returns_before_first_event_and_first_poll() {
    let proxy = EngineProxy::start();
    let clock = SystemClock::start();
    let engine = proxy.engine();
    let call = within(&clock, WAIT_LIMIT, engine.container_events(LABEL, Some("absent"), None)).await;
    let mut events = call.expect("an answer without an event").expect("a stream");
    assert_eq!(
        proxy.count("GET", "/libpod/events"),
        1,
        "the subscription request was not sent before the first poll"
    );
    assert!(events.next().now_or_never().is_none(), "an event was reported, or the stream ended");
}

#[tokio::test]
async fn event_subscription_fails_when_engine_does_not_answer() {
    let proxy = EngineProxy::start();
    let soon = Duration::from_millis(200);
    let deadlines = Deadlines { read: soon, change: soon, pull: soon };
    let engine = Bounded::new(Arc::new(proxy.engine()), Arc::new(SystemClock::start()), deadlines);
    let gate = Gate::default();
    for (fault, kind) in [
        (Fault::Hang, ErrorKind::TimedOut),
        (Fault::DelayAnswer(gate.clone()), ErrorKind::TimedOut),
        (Fault::DropBefore, ErrorKind::Unreachable),
        (Fault::DropAfter, ErrorKind::Unreachable),
        (Fault::Status(404, "no such container".into()), ErrorKind::Other),
    ] {
        let fault_name = format!("{fault:?}");
        proxy.set_rules([Rule::on("GET", "/libpod/events", fault)]);
        let error = engine.container_events(LABEL, Some("absent"), None).await.map(drop).unwrap_err();
        assert_eq!(error.kind, kind, "{fault_name}: {error}");
    }
    gate.open();
    proxy.set_rules([]);
    proxy.refuse();
    let error = engine.container_events(LABEL, Some("absent"), None).await.map(drop).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unreachable, "{error}");
}

#[tokio::test]
async fn interrupted_event_stream_ends_with_unreachable_error() {
    let proxy = EngineProxy::start();
    let scene = Scene::behind(&proxy);
    let label = scene.label();
    let id = scene.created(&scene.spec("cut")).await;
    let mut events = scene.engine.container_events(LABEL, Some(&label), None).await.unwrap();
    let mut log =
        scene.engine.logs(&id, LogRequest { tail: None, follow: true, max_bytes: None }).await.unwrap();
    assert!(log.next().now_or_never().is_none(), "the log has output");
    scene.engine.start_container(&id).await.unwrap();
    assert_eq!(receive_events(&mut events, 1).await, [(id.clone(), ContainerEventKind::Started)]);
    proxy.cut_those(|request| request.path.ends_with("/events"));
    let error = next(&mut events).await.expect("an error, not the end").unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unreachable, "{error}");
    assert!(next(&mut events).await.is_none(), "an item follows an error");
    let mut events = scene.engine.container_events(LABEL, Some(&label), None).await.unwrap();
    assert!(log.next().now_or_never().is_none(), "the log was cut too");
    kill_process(&id);
    let died = event_after_start(&mut events).await;
    assert_eq!((died.container, died.what), (id, DIED), "the next stream does not report later events");
    proxy.cut();
    let error = next(&mut events).await.expect("an error, not the end").unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unreachable, "{error}");
}

/// A Podman service with the storage of the other tests. A test may kill it.
struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn event_stream_ends_when_podman_service_is_killed_or_terminated() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("podman.sock");
    for signal in [rustix::process::Signal::KILL, rustix::process::Signal::TERM] {
        let _ = std::fs::remove_file(&socket);
        let mut command = podman();
        command.args(["system", "service", "--time=0", &format!("unix://{}", socket.display())]);
        command
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut service = Service(command.spawn().expect("podman starts"));
        let engine = engine_at(&socket);
        let mut events = eventually("the service answers", || async {
            engine.container_events(LABEL, Some("absent"), None).await.ok()
        })
        .await;
        let pid = rustix::process::Pid::from_child(&service.0);
        rustix::process::kill_process(pid, signal).expect("the service is signalled");
        // After SIGKILL the stream ends with an error. After SIGTERM the service may also close it without one.
        if let Some(item) = next(&mut events).await {
            let error = item.expect_err("an error or the end, not an event");
            assert_eq!(error.kind, ErrorKind::Unreachable, "{error}");
            assert!(next(&mut events).await.is_none(), "an item follows an error");
        } else {
            assert_eq!(signal, rustix::process::Signal::TERM, "a kill ended the stream without an error");
        }
        service.0.wait().expect("the service ends");
    }
}

#[tokio::test]
async fn log_tail_is_cleaned_and_limited_in_lines_and_bytes() {
    let scene = Scene::new();
    let script =
        r"for n in 1 2 3 4 5; do echo line $n; done; printf 'red \033[31m \377 \342\202\254\r\n' >&2; exit 3";
    let id = scene.running(&scene.script("printer", script)).await;
    let id = ended(&scene, id).await;
    let tail = |lines, max_bytes| log_tail(&scene.engine, &id, lines, max_bytes);
    let whole = eventually("the log is written", || async {
        let whole = tail(50, 4096).await.expect("the log is read");
        whole.contains("red").then_some(whole)
    })
    .await;
    assert!(whole.starts_with("line 1\nline 2\n") && whole.ends_with("red [31m \u{fffd} €\n"), "{whole:?}");
    assert_eq!(tail(2, 4096).await.unwrap(), "line 5\nred [31m \u{fffd} €\n");
    assert_eq!(tail(50, 3).await.unwrap(), "\n");
    assert_eq!(tail(50, 4).await.unwrap(), "€\n");
    scene.engine.delete_container(&id).await.unwrap();
    assert_eq!(tail(50, 4096).await.unwrap_err().kind, ErrorKind::Absent);
}
