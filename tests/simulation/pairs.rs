//! All operations that change a status, in pairs, interleaved at every step.
//!
//! From each status that a workspace can keep for long, two operations begin at once: operator commands, requests of
//! its agent, passes, the exit of its container. Their effects are held step by step and taken in every order
//! (`search.rs`), up to [`MOST`] orders of a pair. A search that is cut off there has varied mainly the last steps, so
//! [`RANDOM`] random orders follow. The numbers of complete and incomplete searches are printed.
//!
//! After every step: each status changed as the table in `domain/status/transition.rs` allows, with its event, and no
//! event without a change; memory agrees with the tables; a paused workspace stays paused until an operator acts, a
//! removed one stays removed. At the end the passes run until nothing changes, and the row agrees with the running
//! containers.
//!
//! # Checking the check
//! The search must detect a mutant: a wake that uses the transition of a resume, and so ends a pause that came first.
//! There is no mutant for the rule that a heartbeat changes only its own incarnation. Two mechanisms enforce that rule:
//! the condition in the statement, and the token, which every start revokes. Removing only one has no visible effect.

use std::{cell::RefCell, collections::BTreeSet, fmt::Write as _, sync::Arc, time::Duration};

use ostler::{
    domain::{
        heartbeat::Heartbeat,
        ids::WorkspaceId,
        operation::Revision,
        status::{Cause, Failure, Status},
    },
    ops::{Order, StartOrder},
    store::{Registration, TokenOwner, TokenSubject},
    sweep::Mode,
};

use super::{
    executor::{EffectState, Owner, TaskOrder},
    installation::{
        AGENTS, IMAGE, Installation, OPS, SWEEPS, healthy, now_or_panic, pass_named, request, token_of,
    },
    invariants::{Broken, Witness, at_rest},
    search::{Play, Search, Step},
};
use crate::support::rng::Rng;

/// Maximum number of orders that are searched for a pair.
const MOST: usize = 400;
/// Number of random orders for a pair that has more than [`MOST`].
const RANDOM: u64 = 50;
/// Longer than every window: every silence, idleness, delay or due time has passed by then.
const LONG: Duration = Duration::from_mins(14);

/// The operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Pause,
    Resume,
    Hibernate,
    Wake,
    Remove,
    Restart,
    Register,
    Heartbeat,
    /// A heartbeat with the token of the previous incarnation.
    StaleHeartbeat,
    /// The process that runs at that moment reports that it is degraded, with the token it holds.
    ReportedDegraded,
    /// The pass `check_heartbeats`, after a long silence.
    Silence,
    /// The pass `hibernate_idle`, after a long idle time.
    Idle,
    /// Its container exits, and the engine reports it.
    Death,
    /// The pass `restart_due`.
    Due,
    /// The pass `time_out_provisioning`.
    Slow,
    /// A mutant: a wake that uses the transition of a resume.
    WakeLikeResume,
}

const ACTS: [Act; 15] = [
    Act::Pause,
    Act::Resume,
    Act::Hibernate,
    Act::Wake,
    Act::Remove,
    Act::Restart,
    Act::Register,
    Act::Heartbeat,
    Act::StaleHeartbeat,
    Act::ReportedDegraded,
    Act::Silence,
    Act::Idle,
    Act::Death,
    Act::Due,
    Act::Slow,
];

/// An initial status, and two operations.
#[derive(Clone, Copy, Debug)]
struct Scene {
    from: Status,
    acts: [Act; 2],
}

impl Scene {
    fn has(self, any: &[Act]) -> bool {
        self.acts.iter().any(|act| any.contains(act))
    }
}

/// Two operations that have both begun, before the first step is taken.
struct Pair {
    site: Installation,
    workspace: WorkspaceId,
    witness: RefCell<Witness>,
    broken: RefCell<Option<Broken>>,
}

impl Pair {
    fn begin(scene: Scene) -> Self {
        let mut site = Installation::new(1, TaskOrder::AsWoken);
        let mut witness = Witness::of(&site);
        let workspace = prepare(&mut site, scene.from, scene.has(&[Act::StaleHeartbeat]));
        let Prepared { id, token_owner, stale } = workspace;
        site.sim.pass(LONG);
        let broken = witness.check(&site).err();
        witness.left_rest.clear();
        for act in scene.acts {
            start(&site, id, act, token_owner, stale);
        }
        Self { site, workspace: id, witness: RefCell::new(witness), broken: RefCell::new(broken) }
    }

    fn check(&self) {
        let seen = self.witness.borrow_mut().check(&self.site).err();
        let mut broken = self.broken.borrow_mut();
        if broken.is_none() {
            *broken = seen;
        }
    }

    /// A text that holds everything in the state on which later steps depend.
    fn end(&self) -> String {
        let row = self.site.row(self.workspace);
        let begun = self.site.daemon.app.ops.has_begun(row.id, row.incarnation);
        let live = now_or_panic(self.site.reader.live_tokens(row.id, self.site.sim.now())).unwrap().len();
        let state = self.site.world.state();
        let containers: Vec<_> = state
            .containers
            .values()
            .map(|container| {
                (&container.name, container.state, state.token_file(container), &container.held_token)
            })
            .collect();
        format!("{row:?} {begun} {live} {containers:?}")
    }

    /// Runs the installation until it is at rest, and checks it. Skips a state that was checked before.
    fn judge(&self, scene: Scene, ends: &mut BTreeSet<String>) -> Result<(), Broken> {
        self.site.sim.quiesce();
        self.check();
        if let Some(broken) = self.broken.borrow_mut().take() {
            return Err(broken);
        }
        if ends.insert(self.end()) {
            self.site.converge();
            self.check();
            if let Some(broken) = self.broken.borrow_mut().take() {
                return Err(broken);
            }
            at_rest(&self.site)?;
            self.has_reached(scene)?;
        }
        let left = &self.witness.borrow().left_rest;
        if !left.is_empty() && !scene.has(&[Act::Resume, Act::Restart]) {
            return Err("it left its resting status without an operator command".into());
        }
        Ok(())
    }

    fn has_reached(&self, scene: Scene) -> Result<(), Broken> {
        let status = self.site.status(self.workspace);
        let resumed = scene.has(&[Act::Resume, Act::Restart]);
        let paused = scene.from == Status::Paused || scene.has(&[Act::Pause]);
        let wanted = if scene.has(&[Act::Remove]) {
            status == Status::Removed
        } else if paused && !resumed {
            status == Status::Paused
        } else {
            // After an exit and a start that timed out, an operator has to act. After a start that timed out alone, a
            // heartbeat brings it online.
            let late = Status::Failed(Failure::ProvisionTimeout);
            matches!(status, Status::Online | Status::Paused | Status::Hibernated)
                || (status == late && scene.has(&[Act::Death]) && scene.has(&[Act::Slow]))
        };
        if wanted { Ok(()) } else { Err(format!("the status {status} is not allowed at rest")) }
    }
}

impl Play for Pair {
    fn enabled(&self) -> Vec<Step> {
        self.site.sim.run_ready();
        let held: Vec<_> = self.site.sim.held().into_iter().map(Step::of).collect();
        if held.is_empty() && self.site.sim.next_timer().is_some() {
            return vec![Step::of_time(OPS)];
        }
        held
    }

    fn take(&self, step: Step) {
        if step.id == 0 {
            self.site.sim.fire_next_timer();
        } else {
            self.site.sim.take(step.id);
        }
        self.site.sim.run_ready();
        self.check();
    }
}

struct Prepared {
    id: WorkspaceId,
    /// Token owner of its current token.
    token_owner: TokenOwner,
    /// Token owner of its previous token.
    stale: TokenOwner,
}

fn prepare(site: &mut Installation, from: Status, twice: bool) -> Prepared {
    let mut made = request("w", IMAGE);
    made.spec.hibernation_idle_minutes = Some(10);
    let id = site.create_started(made);
    let stale = site.token_owner(id).expect("its process runs");
    if twice {
        site.heartbeat(id, healthy());
        site.calmly(|ops| async move { ops.restart(id).await }).expect("it is restarted");
        site.sim.quiesce();
    }
    let token_owner = site.token_owner(id).expect("its process runs");
    if from != Status::Provisioning {
        site.heartbeat(id, healthy());
    }
    match from {
        Status::Online | Status::Provisioning => {}
        Status::Degraded => {
            site.heartbeat(id, Heartbeat { error_rate: 1.0, ..healthy() });
        }
        Status::Paused => {
            site.calmly(|ops| async move { ops.stop(id).await }).expect("it is paused");
        }
        Status::Hibernated => {
            site.calmly(|ops| async move { ops.hibernate(id, false).await }).expect("it is hibernated");
        }
        Status::Offline => {
            let row = site.row(id);
            site.world.state().kill(&row.container.expect("it has one"), 1);
            site.calmly(|ops| async move { ops.order(id, Order::MarkOffline(row.incarnation)).await })
                .unwrap();
        }
        Status::Failed(_) | Status::Hibernating | Status::AwaitingAgent | Status::Removed => {
            unreachable!("no pair begins in this status")
        }
    }
    assert_eq!(site.status(id), from);
    Prepared { id, token_owner, stale }
}

fn start(site: &Installation, id: WorkspaceId, act: Act, token_owner: TokenOwner, old: TokenOwner) {
    let (ops, sweeper, agent_store) =
        (site.daemon.app.ops.clone(), Arc::clone(&site.daemon.app.sweeper), site.daemon.app.store.clone());
    let (clock, world, engine) =
        (site.sim.clock(), Arc::clone(&site.world), site.sim.stage(EffectState::Engine, AGENTS));
    let row = site.row(id);
    site.sim.spawn(Owner::Daemon, async move {
        let sweep = async |pass| {
            let snapshot = sweeper.clock_snapshot();
            sweeper.run(&*pass_named(pass), &snapshot, Mode::Apply).await;
        };
        match act {
            Act::Pause => drop(ops.pause(id).await),
            Act::Resume => drop(ops.resume(id, false).await),
            Act::Hibernate => drop(ops.hibernate(id, false).await),
            Act::Wake => drop(ops.wake(id).await),
            Act::Remove => drop(ops.remove(id, false, false).await),
            Act::Restart => drop(ops.restart(id).await),
            Act::Register => {
                let registration =
                    Registration { card: Some(serde_json::json!({})), ..Registration::default() };
                drop(agent_store.record_registration(token_owner, registration, clock.now()).await);
            }
            Act::Heartbeat => drop(agent_store.record_heartbeat(token_owner, healthy(), clock.now()).await),
            Act::StaleHeartbeat => drop(agent_store.record_heartbeat(old, healthy(), clock.now()).await),
            Act::ReportedDegraded => {
                let (sender, receiver) = tokio::sync::oneshot::channel();
                let (container, memory) = (row.container.clone(), agent_store.clone());
                let (now, world) = (clock.now(), Arc::clone(&world));
                let send = move || {
                    let state = world.state();
                    let running =
                        container.and_then(|id| state.containers.get(&id)).filter(|c| c.state.may_run());
                    let token = running.and_then(|container| token_of(container.held_token.as_deref()));
                    let _receiver_gone =
                        sender.send(token.and_then(|token| memory.token_subject(&token.digest(), now)));
                };
                engine.submit("agent sends", Box::new(send));
                if let Ok(Some(TokenSubject::Workspace(token_owner))) = receiver.await {
                    drop(
                        agent_store
                            .record_heartbeat(
                                token_owner,
                                Heartbeat { error_rate: 1.0, ..healthy() },
                                clock.now(),
                            )
                            .await,
                    );
                }
            }
            Act::Silence => sweep("check_heartbeats").await,
            Act::Idle => sweep("hibernate_idle").await,
            Act::Due => sweep("restart_due").await,
            Act::Slow => sweep("time_out_provisioning").await,
            Act::Death => {
                // As in `watch_engine`. The read of memory is part of the step, because the computation after a step
                // must commute with every other step.
                let (sender, receiver) = tokio::sync::oneshot::channel();
                let container = row.container.clone();
                let memory = agent_store.clone();
                let exit = move || {
                    let mut state = world.state();
                    if let Some(container) = container
                        && state.containers.get(&container).is_some_and(|container| container.state.may_run())
                    {
                        state.kill(&container, 137);
                    }
                    drop(state);
                    let _receiver_gone = sender.send(memory.member(id));
                };
                engine.submit("container exits", Box::new(exit));
                let Ok(Some(member)) = receiver.await else { return };
                let begun = ops.has_begun(id, member.incarnation);
                let up = matches!(member.status, Status::Online | Status::Degraded)
                    || (member.status == Status::Provisioning && begun);
                if up {
                    drop(ops.order(id, Order::MarkOffline(member.incarnation)).await);
                }
            }
            Act::WakeLikeResume => {
                let is_hibernated = agent_store
                    .workspace(id)
                    .await
                    .unwrap()
                    .is_some_and(|row| row.status == Status::Hibernated);
                if is_hibernated {
                    // The defect: a cause of operators, and no guard against stops.
                    let (cause, decided_on) = (Some(Cause::Resume), Some(Revision(i64::MAX)));
                    let order = StartOrder { cause, decided_on, ..StartOrder::default() };
                    drop(ops.order(id, Order::Start(order)).await);
                }
            }
        }
    });
}

fn transcript(steps: &[Step]) -> String {
    let side = |side| match side {
        OPS => "order",
        SWEEPS => "sweep",
        _ => "agent",
    };
    steps.iter().fold(String::new(), |mut text, step| {
        writeln!(text, "{}: {}", side(step.side), step.label).expect("writing to a string succeeds");
        text
    })
}

/// Result of a pair.
#[derive(Default)]
struct Played {
    orders: usize,
    by_chance: u64,
    is_complete: bool,
    failed: Option<String>,
}

fn play(scene: Scene) -> Played {
    let mut ends = BTreeSet::new();
    let mut failed = None;
    let mut note = |broken: Result<(), Broken>, steps: &[Step]| {
        if let Err(broken) = broken {
            failed.get_or_insert_with(|| format!("{scene:?}: {broken}\n{}", transcript(steps)));
        }
    };
    let search =
        Search::through(MOST, || Pair::begin(scene), |pair, steps| note(pair.judge(scene, &mut ends), steps));
    let by_chance = if search.is_complete { 0 } else { RANDOM };
    for seed in 0..by_chance {
        let (pair, mut rng, mut steps) = (Pair::begin(scene), Rng::new(seed, 7), Vec::new());
        loop {
            let enabled = pair.enabled();
            if enabled.is_empty() {
                break;
            }
            let step = rng.pick(&enabled);
            steps.push(step);
            pair.take(step);
        }
        note(pair.judge(scene, &mut ends), &steps);
    }
    let orders = search.played + search.cut_short;
    Played { orders, by_chance, is_complete: search.is_complete, failed }
}

/// Statuses from which pairs begin.
pub(crate) const STATUSES: [Status; 6] = [
    Status::Online,
    Status::Degraded,
    Status::Hibernated,
    Status::Paused,
    Status::Provisioning,
    Status::Offline,
];

/// What was run, and what failed.
#[derive(Debug, Default)]
pub(crate) struct Pairs {
    pub(crate) count: usize,
    /// Orders that were run from the search; random ones are not counted.
    pub(crate) orders: usize,
    pub(crate) random_orders: u64,
    /// Pairs of which every order was covered.
    pub(crate) complete: usize,
    pub(crate) failed: Vec<String>,
}

/// Runs every pair of operations from a status.
pub(crate) fn all_pairs_from(from: Status) -> Pairs {
    let mut all = Pairs::default();
    for (index, one) in ACTS.iter().enumerate() {
        for other in &ACTS[index..] {
            let played = play(Scene { from, acts: [*one, *other] });
            all.count += 1;
            all.orders += played.orders;
            all.random_orders += played.by_chance;
            all.complete += usize::from(played.is_complete);
            all.failed.extend(played.failed);
        }
    }
    all
}

// The other statuses take minutes without optimization: `cargo assurance interleavings` runs all of them.
#[test]
fn operation_pairs_from_provisioning_follow_the_transition_table() {
    let all = all_pairs_from(Status::Provisioning);
    eprintln!("{} pairs in {} orders and {} random ones", all.count, all.orders, all.random_orders);
    assert!(all.failed.is_empty(), "{} of {} pairs:\n{}", all.failed.len(), all.count, all.failed.join("\n"));
}

#[test]
fn pair_search_detects_a_wake_that_lifts_a_pause() {
    let scene = Scene { from: Status::Hibernated, acts: [Act::Pause, Act::WakeLikeResume] };
    let failed = play(scene).failed;
    assert!(
        failed.as_ref().is_some_and(|why| why.contains("is not allowed at rest")),
        "the search did not detect that the wake ends a pause: {failed:?}"
    );
    let scene = Scene { from: Status::Hibernated, acts: [Act::Pause, Act::Wake] };
    assert_eq!(play(scene).failed, None);
}
