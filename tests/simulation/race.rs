//! The race of the stale-token sweep against a start, in every order there is.
//!
//! Two actors run side by side: one order (start, restart or recreate), and one run of
//! `revoke_stale_tokens`, from its look at the engine to its last statement. What they do to the world,
//! engine calls and transactions, is held step by step, and a depth-first search takes the steps in every
//! order. It is stateless: each order is played from the beginning, on a fresh installation.
//!
//! # Why not every interleaving has to be played
//! Two steps that touch different things, or only look, commute: done in either order they lead to the
//! same state and give the same answers, so orders that differ only in such swaps are one order (a
//! Mazurkiewicz trace). What either side computes between its steps is its own and commutes with
//! everything. The search plays one order of each such class, by sleep sets: after a step has been tried
//! in a state, it is not tried again further down until something has happened that does not commute with
//! it. [`touches`] says what commutes, coarsely: a label nobody has written down there commutes with
//! nothing. Every class is played, and the property depends on the class alone: a token that was revoked
//! stays so to the end, where it is looked for.
//!
//! Time stands still but for the two seconds after which a container counts as ready, which are a step of
//! their own that commutes with nothing.
//!
//! # Checking the check
//! With the age taken out of the sweep's UPDATE the same search must find the lesson it is named after:
//! the sweep revokes the token that a start has just issued.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ostler::{
    domain::{ids::WorkspaceId, status::Status},
    ops::{Applied, OpResult, Ops},
    sweep::{Mode, Sweeper},
};

use super::{
    executor::{Owner, Place, Seen, TaskOrder},
    house::{House, OPS, SWEEPS, at_once, pass_named, told},
    invariants::is_live,
};

/// Who takes the next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Step {
    side: u8,
    label: &'static str,
    touches: Touches,
}

/// What a step has to do with. Two steps commute unless one changes what the other touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Touches {
    looks_at: u8,
    changes: u8,
}

const CONTAINERS: u8 = 1;
const VOLUMES: u8 = 2;
const FILES: u8 = 4;
const IMAGES: u8 = 8;
const STORE: u8 = 16;
const TIME: u8 = 32;
const EVERYTHING: u8 = u8::MAX;

impl Touches {
    const fn looking(looks_at: u8) -> Self {
        Self { looks_at, changes: 0 }
    }

    const fn changing(changes: u8) -> Self {
        Self { looks_at: changes, changes }
    }

    fn commutes_with(self, other: Self) -> bool {
        self.changes & other.looks_at == 0 && other.changes & self.looks_at == 0
    }
}

/// The two seconds pass.
const READY: Step = Step { side: OPS, label: "time passes", touches: Touches::changing(EVERYTHING) };

/// What a labelled effect touches. The store's are told apart only by whether they change anything.
fn touches(seen: Seen) -> Touches {
    match (seen.place, seen.label) {
        (Place::Engine, "list_containers" | "inspect_container") => Touches::looking(CONTAINERS),
        (Place::Engine, "list_volumes" | "inspect_volume") => Touches::looking(VOLUMES),
        (Place::Engine, "read_file") => Touches::looking(FILES),
        (Place::Engine, "has_image") => Touches::looking(IMAGES),
        (Place::Engine, "ensure_network") => Touches::looking(0),
        (Place::Engine, "create_volume") => Touches::changing(VOLUMES),
        (Place::Engine, "write_file") => Touches::changing(FILES),
        (Place::Engine, "stop_container" | "rename_container" | "delete_container") => {
            Touches::changing(CONTAINERS)
        }
        (Place::Engine, "create_container" | "start_container") => {
            Touches { looks_at: CONTAINERS | VOLUMES | FILES | IMAGES, changes: CONTAINERS }
        }
        (
            Place::Store,
            "workspace" | "trash entry" | "trash of" | "registry" | "stale candidates" | "held plan"
            | "swept since" | "live count" | "known rows",
        ) => Touches::looking(STORE),
        (Place::Store, _) => Touches::changing(STORE),
        (Place::Engine, _) => Touches::changing(EVERYTHING),
    }
}

/// A state on the current path: what could be done there and what has been tried.
struct Node {
    enabled: Vec<Step>,
    /// Steps that need not be tried here: what they lead to has been seen.
    asleep: Vec<Step>,
    chosen: usize,
}

/// The search through all orders.
#[derive(Default)]
struct Search {
    path: Vec<Node>,
    played: usize,
    cut_short: usize,
}

impl Search {
    /// Plays one order after another until all have been. `begin` makes a fresh race, `judge` looks at
    /// how it ended.
    fn through_all(begin: impl Fn() -> Race, mut judge: impl FnMut(&Race, &[Step])) -> Self {
        let mut search = Self::default();
        loop {
            let race = begin();
            if search.play(&race) {
                search.played += 1;
                judge(&race, &search.steps());
            } else {
                search.cut_short += 1;
            }
            if !search.backtrack() {
                return search;
            }
        }
    }

    fn steps(&self) -> Vec<Step> {
        self.path.iter().map(|node| node.enabled[node.chosen]).collect()
    }

    /// Repeats the path, then goes on as it comes. `false` when all that is left has been seen.
    fn play(&mut self, race: &Race) -> bool {
        let mut depth = 0;
        loop {
            let enabled = race.enabled();
            if enabled.is_empty() {
                return true;
            }
            if depth == self.path.len() {
                let asleep = self.inherited();
                let Some(chosen) = enabled.iter().position(|step| !asleep.contains(step)) else {
                    return false;
                };
                self.path.push(Node { enabled, asleep, chosen });
            } else {
                assert_eq!(enabled, self.path[depth].enabled, "the same choices lead to the same state");
            }
            race.take(self.path[depth].enabled[self.path[depth].chosen]);
            depth += 1;
        }
    }

    /// What stays asleep after the last step: whatever was and commutes with it.
    fn inherited(&self) -> Vec<Step> {
        let Some(last) = self.path.last() else { return Vec::new() };
        let taken = last.enabled[last.chosen];
        last.asleep.iter().filter(|step| step.touches.commutes_with(taken.touches)).copied().collect()
    }

    /// To the deepest state with something left to try. `false` when there is none.
    fn backtrack(&mut self) -> bool {
        while let Some(node) = self.path.last_mut() {
            let tried = node.enabled[node.chosen];
            node.asleep.push(tried);
            if let Some(next) = node.enabled.iter().position(|step| !node.asleep.contains(step)) {
                node.chosen = next;
                return true;
            }
            self.path.pop();
        }
        false
    }
}

/// An order and a sweep, both begun, neither a step further.
struct Race {
    house: House,
    workspace: WorkspaceId,
    over: Arc<AtomicBool>,
}

impl Race {
    fn begin(scene: Scene, change_sweeper: fn(Sweeper) -> Sweeper) -> Self {
        let house = House::with_sweeper(1, TaskOrder::AsWoken, change_sweeper);
        let workspace = house.online("w");
        if scene.container_is_gone {
            house.remove_container(workspace);
        }
        // Its absence has been seen twice and for longer than the grace; the third look is the race's.
        house.look();
        house.sim.pass(Duration::from_mins(6));
        house.look();
        let over = Arc::new(AtomicBool::new(false));
        let (ops, ended) = (house.daemon.ops.clone(), Arc::clone(&over));
        house.sim.spawn(Owner::Daemon, async move {
            let answer = scene.order.give(&ops, workspace).await;
            assert!(matches!(answer, Ok(Applied::Done(_))), "the order is carried out: {}", told(&answer));
            ended.store(true, Ordering::Relaxed);
        });
        let sweeper = Arc::clone(&house.daemon.sweeper);
        house.sim.spawn(Owner::Daemon, async move {
            let look = sweeper.look().await.expect("the listing is trusted");
            sweeper.run(&*pass_named("revoke_stale_tokens"), &look, Mode::Apply).await;
        });
        Self { house, workspace, over }
    }

    /// What can happen next: at most one step of either side.
    fn enabled(&self) -> Vec<Step> {
        self.house.sim.run_ready();
        let held = self.house.sim.held();
        let next = |side| held.iter().find(|seen| seen.side == side).copied();
        let step = |seen: Seen| Step { side: seen.side, label: seen.label, touches: touches(seen) };
        assert!(held.len() <= 2, "each side waits for one thing at a time: {held:?}");
        // Only the readiness watch waits for time alone: a call's deadline is further away than that.
        let ready = (next(OPS).is_none() && self.over.load(Ordering::Relaxed)).then_some(READY);
        let ready = ready.filter(|_| self.house.sim.next_timer() == Some(Duration::from_secs(2)));
        next(OPS).map(step).or(ready).into_iter().chain(next(SWEEPS).map(step)).collect()
    }

    fn take(&self, step: Step) {
        if step == READY {
            self.house.sim.fire_next_timer();
            return;
        }
        let held = self.house.sim.held();
        let held = held.iter().find(|seen| seen.side == step.side).expect("it is still held");
        self.house.sim.take(held.id);
    }

    /// Whether the workspace's process holds the token that the store takes for valid, and runs.
    fn holder_has_a_live_token(&self) -> bool {
        let row = self.house.row(self.workspace);
        let container = self.house.container(self.workspace);
        row.status == Status::Online
            && container.is_some_and(|container| {
                container.state.may_run() && is_live(&self.house, &row, container.held_token.as_deref())
            })
    }

    /// Whether the sweep revoked anything.
    fn swept(&self) -> bool {
        let events =
            at_once(self.house.eye.newest_events(Some(self.workspace), 50)).expect("the store answers");
        events.iter().any(|event| event.event_type == "TOKENS_REVOKED")
    }
}

#[derive(Clone, Copy, Debug)]
enum Ordered {
    Start,
    Restart,
    Recreate,
}

impl Ordered {
    async fn give(self, ops: &Ops, id: WorkspaceId) -> OpResult<Applied> {
        match self {
            Self::Start => ops.start(id, false).await,
            Self::Restart => ops.restart(id).await,
            Self::Recreate => ops.recreate(id).await,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Scene {
    order: Ordered,
    container_is_gone: bool,
}

const SCENES: [Scene; 5] = [
    Scene { order: Ordered::Start, container_is_gone: true },
    Scene { order: Ordered::Restart, container_is_gone: true },
    Scene { order: Ordered::Recreate, container_is_gone: true },
    Scene { order: Ordered::Restart, container_is_gone: false },
    Scene { order: Ordered::Recreate, container_is_gone: false },
];

fn story(steps: &[Step]) -> String {
    let side = |side| if side == OPS { "order" } else { "sweep" };
    steps.iter().map(|step| format!("{}: {}\n", side(step.side), step.label)).collect()
}

#[test]
fn no_order_of_a_start_and_the_stale_token_sweep_takes_a_holders_token() {
    let mut played = BTreeMap::new();
    for scene in SCENES {
        let mut swept = 0;
        let search = Search::through_all(
            || Race::begin(scene, |sweeper| sweeper),
            |race, steps| {
                swept += usize::from(race.swept());
                assert!(
                    race.holder_has_a_live_token(),
                    "{scene:?}: its token was revoked:\n{}",
                    story(steps)
                );
            },
        );
        eprintln!(
            "{scene:?}: {} orders, {} cut short, the old token swept in {swept}",
            search.played, search.cut_short
        );
        assert_eq!(
            swept > 0,
            scene.container_is_gone,
            "the sweep has work to do in some order, and only then"
        );
        played.insert(format!("{scene:?}"), search.played);
    }
    let all: usize = played.values().sum();
    assert!(all > 1000, "only {all} orders were played: {played:?}");
}

#[test]
fn without_the_age_in_the_update_some_order_takes_a_holders_token() {
    let mut taken = 0;
    let search = Search::through_all(
        || Race::begin(SCENES[0], Sweeper::revoking_whatever_the_age),
        |race, _| taken += usize::from(!race.holder_has_a_live_token()),
    );
    eprintln!("without the age: {taken} of {} orders take a live holder's token", search.played);
    assert!(taken > 0, "the check would not notice a missing age");
}
