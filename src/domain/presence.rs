//! What consecutive trusted listings have shown: since when something is there, since when it is not.
//!
//! Kept in memory on purpose. Graces count only time in which somebody was looking; after a start, a
//! suspend or a clock jump [`Presence::forget`] begins them all anew, so nothing is ever blamed on an
//! absence that nobody watched.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use super::{ids::WorkspaceId, time::Awake};

/// Since when, and in how many listings in a row, something was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The first of them.
    pub since: Awake,
    /// How many.
    pub looks: u32,
}

/// For how long, and in how many listings, a workspace had no container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Absent {
    /// How long.
    pub time: Duration,
    /// How many listings.
    pub looks: u32,
}

/// How many listings are remembered. More than any grace holds at the shortest period; an absence that
/// began before them counts from the oldest, which only ever makes it look shorter.
const REMEMBERED: usize = 256;

/// The memory of one spell of listening.
#[derive(Clone, Debug, Default)]
pub struct Presence {
    looks: u32,
    /// When each of the newest listings was taken, the newest last.
    taken: VecDeque<Awake>,
    items: BTreeMap<String, Seen>,
    last_held: BTreeMap<WorkspaceId, u32>,
    running: BTreeMap<WorkspaceId, u32>,
}

impl Presence {
    /// Takes in a trusted listing: the items (container ids, volume names) it shows, the workspaces
    /// that have a container in it, and those that have a running one.
    pub fn note<'a>(
        &mut self,
        at: Awake,
        items: impl Iterator<Item = &'a str>,
        with_container: impl Iterator<Item = WorkspaceId>,
        running: impl Iterator<Item = WorkspaceId>,
    ) {
        self.looks += 1;
        self.taken.push_back(at);
        if self.taken.len() > REMEMBERED {
            self.taken.pop_front();
        }
        let mut now = BTreeMap::new();
        for item in items {
            let before = self.items.get(item);
            let seen = before.map_or(Seen { since: at, looks: 1 }, |seen| Seen {
                since: seen.since,
                looks: seen.looks + 1,
            });
            now.insert(item.to_owned(), seen);
        }
        self.items = now;
        let present: BTreeSet<_> = with_container.collect();
        for workspace in present {
            self.last_held.insert(workspace, self.looks);
        }
        for workspace in running {
            self.running.insert(workspace, self.looks);
        }
    }

    /// Begins anew: nobody was looking.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    /// Since when an item is seen, without a gap.
    #[must_use]
    pub fn seen(&self, item: &str) -> Option<Seen> {
        self.items.get(item).copied()
    }

    /// For how long a workspace has had no container, as far as was watched since `there`, when it had one: listings
    /// before that saw the absence of what was not there yet. One of the same millisecond may have been asked before.
    #[must_use]
    pub fn absent(&self, workspace: WorkspaceId, there: Awake, now: Awake) -> Absent {
        // The absence begins at the first listing without it: what was between two listings nobody saw.
        let looks = self.looks - self.last_held.get(&workspace).copied().unwrap_or(0);
        let without = self.taken.len().saturating_sub(looks as usize);
        let first = without.max(self.taken.partition_point(|at| *at <= there));
        let counted = u32::try_from(self.taken.len() - first).unwrap_or(u32::MAX);
        let since = self.taken.get(first);
        Absent { time: since.map_or(Duration::ZERO, |at| now.since(*at)), looks: counted }
    }

    /// In how many listings in a row, the newest included, a workspace had no running container.
    #[must_use]
    pub fn not_running(&self, workspace: WorkspaceId) -> u32 {
        self.looks - self.running.get(&workspace).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    const A: WorkspaceId = WorkspaceId(Uuid::from_u128(1));

    fn look(presence: &mut Presence, at: u64, present: bool) {
        let held: Vec<_> = present.then_some(A).into_iter().collect();
        let items: Vec<_> = present.then_some("thing").into_iter().collect();
        presence.note(Awake(at), items.into_iter(), held.iter().copied(), held.iter().copied());
    }

    #[test]
    fn absence_counts_from_what_was_watched() {
        let mut presence = Presence::default();
        assert_eq!(presence.absent(A, Awake(0), Awake(9_000)).looks, 0, "nobody has looked yet");
        look(&mut presence, 1_000, false);
        assert_eq!(presence.absent(A, Awake(0), Awake(1_000)), Absent { time: Duration::ZERO, looks: 1 });
        look(&mut presence, 61_000, false);
        assert_eq!(
            presence.absent(A, Awake(0), Awake(61_000)),
            Absent { time: Duration::from_mins(1), looks: 2 }
        );
        look(&mut presence, 70_000, true);
        assert_eq!(presence.absent(A, Awake(0), Awake(71_000)).looks, 0, "it is back");
        look(&mut presence, 80_000, false);
        assert_eq!(presence.absent(A, Awake(0), Awake(80_000)).looks, 1);
        presence.forget();
        assert_eq!(presence.absent(A, Awake(0), Awake(99_000)), Absent { time: Duration::ZERO, looks: 0 });
    }

    #[test]
    fn absence_counts_only_from_when_there_was_something_to_be_absent() {
        let mut presence = Presence::default();
        for at in [1_000, 31_000, 61_000] {
            look(&mut presence, at, false);
        }
        let absent = |there, now| presence.absent(A, Awake(there), Awake(now));
        assert_eq!(absent(0, 61_000), Absent { time: Duration::from_mins(1), looks: 3 });
        assert_eq!(absent(30_999, 61_000), Absent { time: Duration::from_secs(30), looks: 2 });
        assert_eq!(
            absent(31_000, 61_000),
            Absent { time: Duration::ZERO, looks: 1 },
            "of the same millisecond"
        );
        assert_eq!(absent(70_000, 70_000), Absent { time: Duration::ZERO, looks: 0 });
    }

    #[test]
    fn a_gap_makes_an_item_new_again() {
        let mut presence = Presence::default();
        look(&mut presence, 1_000, true);
        look(&mut presence, 2_000, true);
        assert_eq!(presence.seen("thing"), Some(Seen { since: Awake(1_000), looks: 2 }));
        look(&mut presence, 3_000, false);
        assert_eq!(presence.seen("thing"), None);
        look(&mut presence, 4_000, true);
        assert_eq!(presence.seen("thing"), Some(Seen { since: Awake(4_000), looks: 1 }));
    }
}
