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
        Engine, EngineResult, LogChunk, Trouble,
        bounded::{Bounded, Deadlines},
        fake::{EventFault, FakeEngine, Fault},
        tail::log_tail,
    },
};
use uuid::Uuid;

use super::{
    executor::{Owner, Place, TaskOrder},
    house::{House, INSTANCE},
};

/// Events that a listener has received so far.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Story>>);

#[derive(Default)]
struct Story {
    events: Vec<(ContainerId, ContainerEventKind)>,
    workspaces: Vec<Option<WorkspaceId>>,
    times: Vec<Timestamp>,
    error: Option<Trouble>,
    over: bool,
}

impl Heard {
    fn whats(&self) -> Vec<ContainerEventKind> {
        self.0.lock().unwrap().events.iter().map(|(_, what)| *what).collect()
    }

    fn end(&self) -> (bool, Option<Trouble>) {
        let story = self.0.lock().unwrap();
        (story.over, story.error)
    }
}

fn engine(house: &House) -> Arc<dyn Engine> {
    let (stage, spawn) = (house.sim.stage(Place::Engine, 7), house.sim.spawner(Owner::Engine));
    let fake = FakeEngine::connect(Arc::clone(&house.world), stage, house.sim.clock(), spawn);
    Arc::new(Bounded::new(Arc::new(fake), house.sim.clock(), Deadlines::default()))
}

/// Subscribes without faults or races; the subscription stays active.
fn listen(house: &House, instance: InstanceId, since: Option<Timestamp>) -> EngineResult<Heard> {
    let engine = engine(house);
    let call =
        async move { engine.container_events(LABEL_INSTANCE, Some(&instance.to_string()), since).await };
    let mut events = house.sim.calmly(call)?;
    let heard = Heard::default();
    let story = Arc::clone(&heard.0);
    house.sim.spawn(Owner::Daemon, async move {
        while let Some(event) = events.next().await {
            let mut story = story.lock().unwrap();
            match event {
                Ok(event) => {
                    story.events.push((event.container, event.what));
                    story.workspaces.push(event.workspace);
                    story.times.push(event.at);
                }
                Err(error) => story.error = Some(error.trouble),
            }
        }
        story.lock().unwrap().over = true;
    });
    house.sim.run_ready();
    Ok(heard)
}

/// An installation with one online workspace.
fn furnished() -> (House, WorkspaceId, ContainerId) {
    let house = House::new(1, TaskOrder::AsWoken);
    let workspace = house.online("heard");
    let container = house.row(workspace).container.expect("it has a container");
    (house, workspace, container)
}

fn stop_calmly(house: &House, workspace: WorkspaceId) {
    house.calmly(|ops| async move { ops.stop(workspace).await }).expect("it stops");
    house.sim.quiesce();
}

#[test]
fn what_we_do_and_what_others_do_is_heard_in_order() {
    let (house, workspace, container) = furnished();
    let heard = listen(&house, INSTANCE, None).unwrap();
    stop_calmly(&house, workspace);
    house.world.state().run(&container);
    house.world.state().kill(&container, 3);
    house.world.state().kill(&container, 4);
    house.world.state().run(&container);
    house.world.state().remove(&container);
    house.sim.quiesce();
    let died = |code| Died { exit_code: Some(code) };
    assert_eq!(heard.whats(), [died(143), Started, died(3), Started, died(137), Removed]);
    let story = heard.0.lock().unwrap();
    assert!(story.events.iter().all(|(about, _)| *about == container), "{:?}", story.events);
    assert!(story.workspaces.iter().all(|about| *about == Some(workspace)), "{:?}", story.workspaces);
    assert!(story.times.is_sorted() && story.times.last() <= Some(&house.sim.now()), "{:?}", story.times);
    assert!(!story.over, "the stream goes on");
}

#[test]
fn a_start_is_heard_and_nothing_of_other_labels() {
    let (house, _, _) = furnished();
    let stranger = InstanceId(Uuid::from_u128(7));
    let (ours, theirs) = (listen(&house, INSTANCE, None).unwrap(), listen(&house, stranger, None).unwrap());
    house.online("second");
    assert_eq!((ours.whats(), theirs.whats()), (vec![Started], vec![]));
}

#[test]
fn an_event_arrives_when_its_stage_says_so() {
    let (house, _, container) = furnished();
    let heard = listen(&house, INSTANCE, None).unwrap();
    house.world.state().kill(&container, 1);
    house.world.state().run(&container);
    house.sim.run_ready();
    assert_eq!(heard.whats(), [], "it is under way");
    let held = house.sim.held();
    assert!(held.iter().all(|held| held.label == "container_event" && held.side == 7), "{held:?}");
    // Releases the later one first: on one connection, the older event is delivered first regardless.
    house.sim.take(held.last().expect("two are held").id);
    house.sim.run_ready();
    assert_eq!(heard.whats(), [Died { exit_code: Some(1) }]);
    house.sim.quiesce();
    assert_eq!(heard.whats().len(), 2);
}

#[test]
fn what_happened_while_nobody_listened_comes_first_where_it_is_asked_for() {
    let (house, _, container) = furnished();
    house.sim.idle(Duration::from_secs(5));
    let before = house.sim.now();
    house.world.state().kill(&container, 1);
    house.sim.idle(Duration::from_secs(5));
    let between = house.sim.now();
    house.world.state().run(&container);
    let heard = [None, Some(before), Some(between)].map(|since| listen(&house, INSTANCE, since).unwrap());
    house.world.state().kill(&container, 2);
    house.sim.quiesce();
    let died = |code| Died { exit_code: Some(code) };
    assert_eq!(heard[0].whats(), [died(2)]);
    assert_eq!(heard[1].whats(), [died(1), Started, died(2)]);
    assert_eq!(heard[2].whats(), [Started, died(2)]);
}

#[test]
fn events_are_lost_doubled_and_late_where_a_test_says_so() {
    let (house, _, container) = furnished();
    let heard = listen(&house, INSTANCE, None).unwrap();
    let late = EventFault::Late(Duration::from_secs(30));
    let mut faults = vec![EventFault::None, EventFault::Twice, late, EventFault::Lost];
    house.world.inject_into_events(move |_| faults.pop().unwrap_or(EventFault::None));
    for code in 1..=3 {
        house.world.state().kill(&container, code);
        house.world.state().run(&container);
    }
    house.sim.pass(Duration::from_secs(29));
    let died = |code| Died { exit_code: Some(code) };
    // Lost: the first death. Late: the first start. Duplicated: the second death.
    assert_eq!(heard.whats(), [died(2), died(2), Started, died(3), Started]);
    house.sim.pass(Duration::from_secs(1));
    assert_eq!(heard.whats().last(), Some(&Started));
    assert_eq!(heard.whats().len(), 6);
}

#[test]
fn a_stream_ends_with_an_error_or_without_and_hears_no_more() {
    for trouble in [Some(Trouble::Unreachable), None] {
        let (house, _, container) = furnished();
        let [all, one] = [(), ()].map(|()| listen(&house, INSTANCE, None).unwrap());
        let mut first = true;
        house.world.inject_into_events(move |_| {
            if std::mem::take(&mut first) { EventFault::End(trouble) } else { EventFault::None }
        });
        house.world.state().kill(&container, 1);
        house.sim.quiesce();
        assert_eq!((all.end(), all.whats()), ((true, trouble), vec![]));
        assert_eq!((one.end(), one.whats().len()), ((false, None), 1));
        house.world.state().run(&container);
        house.world.end_events(trouble);
        house.world.state().kill(&container, 2);
        house.sim.quiesce();
        assert_eq!(one.end(), (true, trouble));
        assert_eq!(one.whats().len(), 2, "what was under way arrives, what comes later does not");
        assert_eq!(house.world.state().listeners(), 0);
    }
}

#[test]
fn an_engine_that_does_not_let_us_listen_says_so_in_time() {
    let (house, _, container) = furnished();
    for (fault, trouble) in
        [(Fault::Before(Trouble::Unreachable), Trouble::Unreachable), (Fault::Lost, Trouble::TimedOut)]
    {
        house.world.inject(
            move |call| {
                if call.method == "container_events" { fault.clone() } else { Fault::None }
            },
        );
        let error = listen(&house, INSTANCE, None).map(drop).unwrap_err();
        assert_eq!(error.trouble, trouble, "{error}");
    }
    house.world.heal();
    let heard = listen(&house, INSTANCE, None).unwrap();
    house.world.state().kill(&container, 1);
    house.sim.quiesce();
    assert_eq!(heard.whats().len(), 1);
}

/// The deadline applies to the answer, not to the stream after it.
#[test]
fn silence_ends_no_stream() {
    let (house, _, container) = furnished();
    let heard = listen(&house, INSTANCE, None).unwrap();
    house.sim.pass(Duration::from_hours(24));
    assert_eq!(heard.end(), (false, None));
    house.world.state().kill(&container, 1);
    house.sim.quiesce();
    assert_eq!(heard.whats().len(), 1);
}

#[test]
fn a_listener_goes_with_its_daemon() {
    let (mut house, _, container) = furnished();
    let heard = listen(&house, INSTANCE, None).unwrap();
    assert_eq!(house.world.state().listeners(), 1);
    house.crash(|_| true);
    assert_eq!(house.world.state().listeners(), 0);
    house.world.state().kill(&container, 1);
    assert!(house.sim.held().is_empty(), "nobody is told");
    assert_eq!(heard.whats(), []);
}

#[test]
fn the_end_of_a_log_is_read_through_any_engine() {
    let (house, _, container) = furnished();
    let line = |stderr, text: &str| LogChunk { stderr, bytes: text.as_bytes().to_vec() };
    let written = vec![line(false, "one\n"), line(true, "two\x1b[0m\n"), line(false, "drei €\n")];
    house.world.state().logs.insert(container.clone(), written);
    let tail = |lines, max_bytes| {
        let (engine, container) = (engine(&house), container.clone());
        house.sim.calmly(async move { log_tail(&*engine, &container, lines, max_bytes).await })
    };
    assert_eq!(tail(10, 100).unwrap(), "one\ntwo[0m\ndrei €\n");
    assert_eq!(tail(2, 100).unwrap(), "two[0m\ndrei €\n");
    assert_eq!(tail(2, 4).unwrap(), "€\n");
    assert_eq!(tail(2, 3).unwrap(), "\n");
    assert_eq!(tail(0, 100).unwrap(), "");
    house.world.state().remove(&container);
    assert_eq!(tail(10, 100).unwrap_err().trouble, Trouble::Absent);
}
