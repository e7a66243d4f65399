//! Enumeration of every order of the possible steps.
//!
//! A stateless depth-first search: each order is run from the beginning, on a new installation.
//!
//! # Why not every interleaving has to be run
//! Two steps that touch different things, or only read, commute: in either order they lead to the same state and the
//! same answers. Orders that differ only in such swaps are equivalent (a Mazurkiewicz trace). The computation between
//! steps is local and commutes with everything. The search runs one order of each class, using sleep sets: a step that
//! has been tried in a state is not tried again further down until a step that does not commute with it has happened.
//! [`touches`] defines coarsely what commutes: a label that is not listed there commutes with nothing. Every class is
//! run, which suffices for a property that depends on the class alone.

use super::executor::{EffectState, Seen};

/// A possible next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// Id of the held effect, stable while it is held; 0 for the passing of time.
    pub(super) id: u64,
    pub(super) side: u8,
    pub(super) label: &'static str,
    pub(super) touches: Touches,
}

impl Step {
    pub(super) fn of(seen: Seen) -> Self {
        Self { id: seen.id, side: seen.side, label: seen.label, touches: touches(seen) }
    }

    /// The passing of time, which commutes with nothing.
    pub(super) const fn of_time(side: u8) -> Self {
        Self { id: 0, side, label: "time passes", touches: Touches::changing(EVERYTHING) }
    }
}

/// A run whose steps can be taken in every order.
pub(super) trait Play {
    /// The possible next steps; empty at the end.
    fn enabled(&self) -> Vec<Step>;
    /// Carries out the step.
    fn take(&self, step: Step);
}

/// What a step reads and changes. Two steps commute unless one changes what the other touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Touches {
    reads: u8,
    changes: u8,
}

const CONTAINERS: u8 = 1;
const VOLUMES: u8 = 2;
const FILES: u8 = 4;
const IMAGES: u8 = 8;
const STORE: u8 = 16;
/// Order of the commands of one workspace: a command's first read decides when it queues, so such reads do not
/// commute.
const TURN: u8 = 32;
const EVERYTHING: u8 = u8::MAX;

impl Touches {
    const fn reading(reads: u8) -> Self {
        Self { reads, changes: 0 }
    }

    const fn changing(changes: u8) -> Self {
        Self { reads: changes, changes }
    }

    fn commutes_with(self, other: Self) -> bool {
        self.changes & other.reads == 0 && other.changes & self.reads == 0
    }
}

/// Returns what an effect reads and changes, by its label. An effect on the store reads or changes the store as a
/// whole: tables and rows are not distinguished.
fn touches(seen: Seen) -> Touches {
    match (seen.state, seen.label) {
        (EffectState::Engine, "list_containers" | "inspect_container" | "logs") => {
            Touches::reading(CONTAINERS)
        }
        (EffectState::Engine, "list_volumes" | "inspect_volume") => Touches::reading(VOLUMES),
        (EffectState::Engine, "read_file") => Touches::reading(FILES),
        (EffectState::Engine, "has_image") => Touches::reading(IMAGES),
        (EffectState::Engine, "ensure_network") => Touches::reading(0),
        (EffectState::Engine, "create_volume") => Touches::changing(VOLUMES),
        (EffectState::Engine, "write_file") => Touches::changing(FILES),
        (EffectState::Engine, "stop_container" | "rename_container" | "delete_container") => {
            Touches::changing(CONTAINERS)
        }
        (EffectState::Engine, "create_container" | "start_container") => {
            Touches { reads: CONTAINERS | VOLUMES | FILES | IMAGES, changes: CONTAINERS }
        }
        (
            EffectState::Store,
            "trash entry" | "trash of" | "relevant trash" | "registry" | "stale candidates" | "held plan"
            | "swept since" | "live count" | "known rows" | "known count",
        ) => Touches::reading(STORE),
        (EffectState::Store, "workspace" | "paused above" | "paused along with") => {
            Touches { reads: STORE | TURN, changes: TURN }
        }
        // After these queries the passes ask which operations are in progress, which any step may have changed.
        (
            EffectState::Store,
            "restarts due" | "quiet rows" | "idle rows" | "hibernating rows" | "provisioning rows"
            | "up rows",
        )
        | (EffectState::Engine, _) => Touches::changing(EVERYTHING),
        (EffectState::Store, _) => Touches::changing(STORE | TURN),
    }
}

/// A state on the current path: its possible steps, and those that have been tried.
struct Node {
    enabled: Vec<Step>,
    /// The sleep set: steps whose results have been covered already.
    sleep_set: Vec<Step>,
    chosen: usize,
}

/// The search through all orders of steps.
#[derive(Default)]
pub(super) struct Search {
    path: Vec<Node>,
    /// Number of orders that were run to completion.
    pub(super) played: usize,
    /// Number of orders that were abandoned, because all their possible continuations had been covered.
    pub(super) cut_short: usize,
    /// Whether every order has been covered.
    pub(super) is_complete: bool,
    /// Number of interleavings that the covered orders represent, computed from the longest run.
    pub(super) interleavings: u128,
}

impl Search {
    /// Runs one order after another until all are covered or `most` have begun. `begin` creates a new run, `judge`
    /// checks its result.
    pub(super) fn through<P: Play>(
        most: usize,
        begin: impl Fn() -> P,
        mut judge: impl FnMut(&P, &[Step]),
    ) -> Self {
        let mut search = Self::default();
        loop {
            let race = begin();
            if search.play(&race) {
                search.played += 1;
                let steps = search.steps();
                search.interleavings = search.interleavings.max(interleavings(&steps));
                judge(&race, &steps);
            } else {
                search.cut_short += 1;
            }
            if !search.backtrack() {
                search.is_complete = true;
                return search;
            }
            if search.played + search.cut_short >= most {
                return search;
            }
        }
    }

    fn steps(&self) -> Vec<Step> {
        self.path.iter().map(|node| node.enabled[node.chosen]).collect()
    }

    /// Repeats the path, then continues with the first step not in the sleep set. `false` if all continuations have
    /// been covered.
    fn play(&mut self, race: &impl Play) -> bool {
        let mut depth = 0;
        loop {
            let enabled = race.enabled();
            if enabled.is_empty() {
                return true;
            }
            if depth == self.path.len() {
                let sleep_set = self.inherited();
                let Some(chosen) = enabled.iter().position(|step| !sleep_set.contains(step)) else {
                    return false;
                };
                self.path.push(Node { enabled, sleep_set, chosen });
            } else {
                assert_eq!(enabled, self.path[depth].enabled, "the same choices led to different states");
            }
            race.take(self.path[depth].enabled[self.path[depth].chosen]);
            depth += 1;
        }
    }

    /// The sleep set after the last step: those steps of the previous sleep set that commute with the last step.
    fn inherited(&self) -> Vec<Step> {
        let Some(last) = self.path.last() else { return Vec::new() };
        let taken = last.enabled[last.chosen];
        last.sleep_set.iter().filter(|step| step.touches.commutes_with(taken.touches)).copied().collect()
    }

    /// Moves to the deepest state with an untried step. `false` when there is none.
    fn backtrack(&mut self) -> bool {
        while let Some(node) = self.path.last_mut() {
            let tried = node.enabled[node.chosen];
            node.sleep_set.push(tried);
            if let Some(next) = node.enabled.iter().position(|step| !node.sleep_set.contains(step)) {
                node.chosen = next;
                return true;
            }
            self.path.pop();
        }
        false
    }
}

/// Number of ways to merge the steps of the two sides into one sequence.
fn interleavings(steps: &[Step]) -> u128 {
    let Some(first) = steps.first() else { return 1 };
    let orders = steps.iter().filter(|step| step.side == first.side).count() as u128;
    let all = steps.len() as u128;
    (1..=all - orders).fold(1, |ways, n| ways * (orders + n) / n)
}
