//! Events of the fake engine: they arrive like those of an engine, with the faults that a test injects.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::StreamExt;
use ostler::{
    domain::{
        ids::{ContainerId, InstanceId, WorkspaceId},
        naming::LABEL_INSTANCE,
        observed::ContainerEventKind::{self, Died, Removed, Started},
        time::Timestamp,
    },
    engine::{
        Engine, EngineResult, ErrorKind, LogChunk,
        bounded::{Bounded, Deadlines},
        tail::log_tail,
    },
};
use uuid::Uuid;

use super::{
    executor::{EffectState, Owner, TaskOrder},
    installation::{INSTANCE, Installation},
};
use crate::support::fake_engine::{EventFault, FakeEngine, Fault};

/// Events that a listener has received so far.
#[derive(Clone, Default)]
struct Received(Arc<Mutex<Record>>);

#[derive(Default)]
struct Record {
    events: Vec<(ContainerId, ContainerEventKind)>,
    workspaces: Vec<Option<WorkspaceId>>,
    times: Vec<Timestamp>,
    error: Option<ErrorKind>,
    over: bool,
}

impl Received {
    fn whats(&self) -> Vec<ContainerEventKind> {
        self.0.lock().unwrap().events.iter().map(|(_, what)| *what).collect()
    }

    fn end(&self) -> (bool, Option<ErrorKind>) {
        let record = self.0.lock().unwrap();
        (record.over, record.error)
    }
}

fn engine(site: &Installation) -> Arc<dyn Engine> {
    let (stage, spawn) = (site.sim.stage(EffectState::Engine, 7), site.sim.spawner(Owner::Engine));
    let fake = FakeEngine::connect(Arc::clone(&site.world), stage, site.sim.clock(), spawn);
    Arc::new(Bounded::new(Arc::new(fake), site.sim.clock(), Deadlines::default()))
}

/// Subscribes without faults or races; the subscription stays active.
fn listen(site: &Installation, instance: InstanceId, since: Option<Timestamp>) -> EngineResult<Received> {
    let engine = engine(site);
    let call =
        async move { engine.container_events(LABEL_INSTANCE, Some(&instance.to_string()), since).await };
    let mut events = site.sim.calmly(call)?;
    let received = Received::default();
    let record = Arc::clone(&received.0);
    site.sim.spawn(Owner::Daemon, async move {
        while let Some(event) = events.next().await {
            let mut record = record.lock().unwrap();
            match event {
                Ok(event) => {
                    record.events.push((event.container, event.what));
                    record.workspaces.push(event.workspace);
                    record.times.push(event.at);
                }
                Err(error) => record.error = Some(error.kind),
            }
        }
        record.lock().unwrap().over = true;
    });
    site.sim.run_ready();
    Ok(received)
}

/// An installation with one online workspace.
fn with_one_online() -> (Installation, WorkspaceId, ContainerId) {
    let site = Installation::new(1, TaskOrder::AsWoken);
    let workspace = site.online("observed");
    let container = site.row(workspace).container.expect("it has a container");
    (site, workspace, container)
}

fn stop_calmly(site: &Installation, workspace: WorkspaceId) {
    site.calmly(|ops| async move { ops.stop(workspace).await }).expect("it stops");
    site.sim.quiesce();
}

#[test]
fn engine_events_of_every_cause_arrive_in_order() {
    let (site, workspace, container) = with_one_online();
    let received = listen(&site, INSTANCE, None).unwrap();
    stop_calmly(&site, workspace);
    site.world.state().run(&container);
    site.world.state().kill(&container, 3);
    site.world.state().kill(&container, 4);
    site.world.state().run(&container);
    site.world.state().remove(&container);
    site.sim.quiesce();
    let died = |code| Died { exit_code: Some(code) };
    assert_eq!(received.whats(), [died(143), Started, died(3), Started, died(137), Removed]);
    let record = received.0.lock().unwrap();
    assert!(record.events.iter().all(|(about, _)| *about == container), "{:?}", record.events);
    assert!(record.workspaces.iter().all(|about| *about == Some(workspace)), "{:?}", record.workspaces);
    assert!(record.times.is_sorted() && record.times.last() <= Some(&site.sim.now()), "{:?}", record.times);
    assert!(!record.over, "the stream ended");
}

#[test]
fn event_subscription_receives_only_events_of_its_label() {
    let (site, _, _) = with_one_online();
    let other = InstanceId(Uuid::from_u128(7));
    let (ours, theirs) = (listen(&site, INSTANCE, None).unwrap(), listen(&site, other, None).unwrap());
    site.online("second");
    assert_eq!((ours.whats(), theirs.whats()), (vec![Started], vec![]));
}

#[test]
fn held_events_arrive_in_order_when_released() {
    let (site, _, container) = with_one_online();
    let received = listen(&site, INSTANCE, None).unwrap();
    site.world.state().kill(&container, 1);
    site.world.state().run(&container);
    site.sim.run_ready();
    assert_eq!(received.whats(), [], "a held event was delivered");
    let held = site.sim.held();
    assert!(held.iter().all(|held| held.label == "container_event" && held.side == 7), "{held:?}");
    // Releases the later event first. The older one must still be delivered first, as on any one connection.
    site.sim.take(held.last().expect("two are held").id);
    site.sim.run_ready();
    assert_eq!(received.whats(), [Died { exit_code: Some(1) }]);
    site.sim.quiesce();
    assert_eq!(received.whats().len(), 2);
}

#[test]
fn event_subscription_replays_events_since_a_given_time() {
    let (site, _, container) = with_one_online();
    site.sim.idle(Duration::from_secs(5));
    let before = site.sim.now();
    site.world.state().kill(&container, 1);
    site.sim.idle(Duration::from_secs(5));
    let between = site.sim.now();
    site.world.state().run(&container);
    let received = [None, Some(before), Some(between)].map(|since| listen(&site, INSTANCE, since).unwrap());
    site.world.state().kill(&container, 2);
    site.sim.quiesce();
    let died = |code| Died { exit_code: Some(code) };
    assert_eq!(received[0].whats(), [died(2)]);
    assert_eq!(received[1].whats(), [died(1), Started, died(2)]);
    assert_eq!(received[2].whats(), [Started, died(2)]);
}

#[test]
fn event_faults_lose_repeat_and_delay_events() {
    let (site, _, container) = with_one_online();
    let received = listen(&site, INSTANCE, None).unwrap();
    let late = EventFault::Late(Duration::from_secs(30));
    let mut faults = vec![EventFault::None, EventFault::Twice, late, EventFault::Lost];
    site.world.inject_into_events(move |_| faults.pop().unwrap_or(EventFault::None));
    for code in 1..=3 {
        site.world.state().kill(&container, code);
        site.world.state().run(&container);
    }
    site.sim.pass(Duration::from_secs(29));
    let died = |code| Died { exit_code: Some(code) };
    // The first death is lost, the first start is late, and the second death is duplicated.
    assert_eq!(received.whats(), [died(2), died(2), Started, died(3), Started]);
    site.sim.pass(Duration::from_secs(1));
    assert_eq!(received.whats().last(), Some(&Started));
    assert_eq!(received.whats().len(), 6);
}

#[test]
fn event_stream_delivers_nothing_after_its_end() {
    for kind in [Some(ErrorKind::Unreachable), None] {
        let (site, _, container) = with_one_online();
        let [all, one] = [(), ()].map(|()| listen(&site, INSTANCE, None).unwrap());
        let mut first = true;
        site.world.inject_into_events(move |_| {
            if std::mem::take(&mut first) { EventFault::End(kind) } else { EventFault::None }
        });
        site.world.state().kill(&container, 1);
        site.sim.quiesce();
        assert_eq!((all.end(), all.whats()), ((true, kind), vec![]));
        assert_eq!((one.end(), one.whats().len()), ((false, None), 1));
        site.world.state().run(&container);
        site.world.end_events(kind);
        site.world.state().kill(&container, 2);
        site.sim.quiesce();
        assert_eq!(one.end(), (true, kind));
        assert_eq!(one.whats().len(), 2, "exactly the events sent before the end must arrive");
        assert_eq!(site.world.state().listeners(), 0);
    }
}

#[test]
fn refused_or_unanswered_event_subscription_fails() {
    let (site, _, container) = with_one_online();
    for (fault, kind) in
        [(Fault::Before(ErrorKind::Unreachable), ErrorKind::Unreachable), (Fault::Lost, ErrorKind::TimedOut)]
    {
        site.world
            .inject(move |call| if call.method == "container_events" { fault.clone() } else { Fault::None });
        let error = listen(&site, INSTANCE, None).map(drop).unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
    }
    site.world.heal();
    let received = listen(&site, INSTANCE, None).unwrap();
    site.world.state().kill(&container, 1);
    site.sim.quiesce();
    assert_eq!(received.whats().len(), 1);
}

/// The deadline applies to the answer, not to the stream after it.
#[test]
fn event_stream_stays_open_without_events() {
    let (site, _, container) = with_one_online();
    let received = listen(&site, INSTANCE, None).unwrap();
    site.sim.pass(Duration::from_hours(24));
    assert_eq!(received.end(), (false, None));
    site.world.state().kill(&container, 1);
    site.sim.quiesce();
    assert_eq!(received.whats().len(), 1);
}

#[test]
fn event_subscription_ends_when_the_daemon_is_killed() {
    let (mut site, _, container) = with_one_online();
    let received = listen(&site, INSTANCE, None).unwrap();
    assert_eq!(site.world.state().listeners(), 1);
    site.crash(|_| true);
    assert_eq!(site.world.state().listeners(), 0);
    site.world.state().kill(&container, 1);
    assert!(site.sim.held().is_empty(), "an event is held although no daemon listens");
    assert_eq!(received.whats(), []);
}

#[test]
fn log_tail_is_limited_in_lines_and_bytes() {
    let (site, _, container) = with_one_online();
    let line = |stderr, text: &str| LogChunk { stderr, bytes: text.as_bytes().to_vec() };
    let written = vec![line(false, "one\n"), line(true, "two\x1b[0m\n"), line(false, "drei €\n")];
    site.world.state().logs.insert(container.clone(), written);
    let tail = |lines, max_bytes| {
        let (engine, container) = (engine(&site), container.clone());
        site.sim.calmly(async move { log_tail(&*engine, &container, lines, max_bytes).await })
    };
    assert_eq!(tail(10, 100).unwrap(), "one\ntwo[0m\ndrei €\n");
    assert_eq!(tail(2, 100).unwrap(), "two[0m\ndrei €\n");
    assert_eq!(tail(2, 4).unwrap(), "€\n");
    assert_eq!(tail(2, 3).unwrap(), "\n");
    assert_eq!(tail(0, 100).unwrap(), "");
    site.world.state().remove(&container);
    assert_eq!(tail(10, 100).unwrap_err().kind, ErrorKind::Absent);
}
