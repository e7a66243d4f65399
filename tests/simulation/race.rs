//! The race of the stale-token sweep against a start, in every order.
//!
//! Two actors run concurrently: one command (start, restart or recreate), and one run of `revoke_stale_tokens`, from
//! its engine snapshot to its last statement. Their effects, engine calls and transactions, are held step by step, and
//! a depth-first search takes the steps in every order. It is stateless: each order is run from the beginning, on a
//! new installation.
//!
//! Every class of orders is run (`search.rs`), and the property depends on the class alone: a revoked token stays
//! revoked to the end, where it is checked.
//!
//! Time stands still, except for the two seconds after which a container counts as ready. They are a separate step
//! that commutes with nothing.
//!
//! # Checking the check
//! Without the age condition in the sweep's UPDATE, the same search must find the failure that the test is named
//! after: the sweep revokes the token that a start has just issued.

use std::{
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use ostler::{
    domain::{
        ids::WorkspaceId,
        status::{Cause, Status},
    },
    ops::{Applied, OpResult, Ops, StartOrder},
    sweep::{Mode, Sweeper},
};

use super::{
    executor::{Owner, TaskOrder},
    installation::{Installation, OPS, SWEEPS, now_or_panic, outcome_text, pass_named},
    invariants::is_live,
    search::{Play, Search, Step},
};

/// The two seconds until a container counts as ready.
const READY: Step = Step::of_time(OPS);

/// A command and a sweep that have both begun, before the first step is taken.
struct Race {
    site: Installation,
    workspace: WorkspaceId,
    over: Arc<AtomicBool>,
}

impl Race {
    fn begin(scene: Scene, change_sweeper: fn(Sweeper) -> Sweeper) -> Self {
        let site = Installation::with_sweeper(1, TaskOrder::AsWoken, change_sweeper);
        let workspace = site.online("w");
        if scene.container_is_gone {
            site.remove_container(workspace);
        }
        // Two snapshots show the container's absence for longer than the grace. The third snapshot is part of the race.
        site.snapshot();
        site.sim.pass(Duration::from_mins(6));
        site.snapshot();
        let over = Arc::new(AtomicBool::new(false));
        let (ops, ended) = (site.daemon.app.ops.clone(), Arc::clone(&over));
        site.sim.spawn(Owner::Daemon, async move {
            let answer = scene.order.give(&ops, workspace).await;
            assert!(
                matches!(answer, Ok(Applied::Done(_))),
                "the command was not carried out: {}",
                outcome_text(&answer)
            );
            ended.store(true, Ordering::Relaxed);
        });
        let sweeper = Arc::clone(&site.daemon.app.sweeper);
        site.sim.spawn(Owner::Daemon, async move {
            let snapshot = sweeper.snapshot().await.expect("the listing is trusted");
            sweeper.run(&*pass_named("revoke_stale_tokens"), &snapshot, Mode::Apply).await;
        });
        Self { site, workspace, over }
    }

    /// Whether the workspace's process runs and holds a token that the store accepts.
    fn owner_has_a_live_token(&self) -> bool {
        let row = self.site.row(self.workspace);
        let container = self.site.container(self.workspace);
        row.status == Status::Online
            && container.is_some_and(|container| {
                container.state.may_run() && is_live(&self.site, &row, container.held_token.as_deref())
            })
    }

    /// Whether the sweep revoked a token.
    fn swept(&self) -> bool {
        let events = now_or_panic(self.site.reader.newest_events(Some(self.workspace), 50))
            .expect("the store answers");
        events.iter().any(|event| event.event_type == "TOKENS_REVOKED")
    }
}

impl Play for Race {
    /// The possible next steps: at most one for each side.
    fn enabled(&self) -> Vec<Step> {
        self.site.sim.run_ready();
        let held = self.site.sim.held();
        let next = |side| held.iter().find(|seen| seen.side == side).copied();
        assert!(held.len() <= 2, "a side waits for more than one effect: {held:?}");
        // Only the check for readiness waits for time alone. The deadlines of engine calls end later.
        let ready = (next(OPS).is_none() && self.over.load(Ordering::Relaxed)).then_some(READY);
        let ready = ready.filter(|_| self.site.sim.next_timer() == Some(Duration::from_secs(2)));
        next(OPS).map(Step::of).or(ready).into_iter().chain(next(SWEEPS).map(Step::of)).collect()
    }

    fn take(&self, step: Step) {
        if step == READY {
            self.site.sim.fire_next_timer();
            return;
        }
        let held = self.site.sim.held();
        let held = held.iter().find(|seen| seen.side == step.side).expect("it is still held");
        self.site.sim.take(held.id);
    }
}

#[derive(Clone, Copy, Debug)]
enum Order {
    Start,
    Restart,
    Recreate,
}

impl Order {
    /// The worker's order itself, without the transactions that accept and end an operation: these touch no token, and
    /// would multiply the number of orders to run.
    async fn give(self, ops: &Ops, id: WorkspaceId) -> OpResult<Applied> {
        let order = StartOrder { cause: Some(Cause::StartByOperator), ..StartOrder::default() };
        let order = match self {
            Self::Start => order,
            Self::Restart => StartOrder { even_if_running: true, ..order },
            Self::Recreate => StartOrder { even_if_running: true, new_container: true, ..order },
        };
        ops.order(id, ostler::ops::Order::Start(order)).await
    }
}

#[derive(Clone, Copy, Debug)]
struct Scene {
    order: Order,
    container_is_gone: bool,
}

/// Each scene with the number of orders below which its search covers less than it claims: a little less than the
/// search runs now.
const SCENES: [(Scene, usize); 5] = [
    (Scene { order: Order::Start, container_is_gone: true }, 3000),
    (Scene { order: Order::Restart, container_is_gone: true }, 3000),
    (Scene { order: Order::Recreate, container_is_gone: true }, 3000),
    (Scene { order: Order::Restart, container_is_gone: false }, 100),
    (Scene { order: Order::Recreate, container_is_gone: false }, 1000),
];

fn transcript(steps: &[Step]) -> String {
    let side = |side| if side == OPS { "order" } else { "sweep" };
    steps.iter().fold(String::new(), |mut text, step| {
        writeln!(text, "{}: {}", side(step.side), step.label).expect("writing to a string succeeds");
        text
    })
}

/// Number of scenes.
pub(crate) const COUNT: usize = SCENES.len();

/// Result of a search through every order of a scene.
#[derive(Debug)]
pub(crate) struct Searched {
    pub(crate) scene: String,
    pub(crate) orders: usize,
    /// Interleavings that the orders represent.
    pub(crate) interleavings: u128,
    pub(crate) failed: Vec<String>,
}

/// Runs every order of the scene with this number.
pub(crate) fn every_order(number: usize, change_sweeper: fn(Sweeper) -> Sweeper) -> Searched {
    let (scene, orders_min) = SCENES[number];
    let (mut swept, mut failed) = (0, Vec::new());
    let search = Search::through(
        usize::MAX,
        || Race::begin(scene, change_sweeper),
        |race, steps| {
            swept += usize::from(race.swept());
            if !race.owner_has_a_live_token() {
                failed.push(format!("{scene:?}: its token was revoked\n{}", transcript(steps)));
            }
        },
    );
    if (swept > 0) != scene.container_is_gone {
        failed.push(format!(
            "{scene:?}: the sweep revoked tokens in {swept} orders; it must only if the container is gone"
        ));
    }
    if search.played < orders_min {
        failed.push(format!("{scene:?}: only {} orders were run", search.played));
    }
    Searched {
        scene: format!("{scene:?}"),
        orders: search.played,
        interleavings: search.interleavings,
        failed,
    }
}

#[test]
fn token_sweep_never_revokes_the_token_of_a_concurrent_start() {
    let searched: Vec<_> = thread::scope(|threads| {
        let scenes: Vec<_> =
            (0..COUNT).map(|number| threads.spawn(move || every_order(number, |sweeper| sweeper))).collect();
        scenes.into_iter().map(|scene| scene.join().expect("the search does not panic")).collect()
    });
    for scene in searched {
        eprintln!("{scene:?}");
        assert!(scene.failed.is_empty(), "{}", scene.failed.join("\n"));
    }
}

#[test]
fn race_search_detects_a_token_sweep_without_age_condition() {
    let searched = every_order(0, Sweeper::revoking_without_age);
    let revoked = searched.failed.iter().filter(|failed| failed.contains("its token was revoked")).count();
    eprintln!("without the age condition: {revoked} of {} orders revoke a live token", searched.orders);
    assert!(revoked > 0, "the check does not detect a missing age condition");
}
