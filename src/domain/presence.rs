//! Presence and absence of containers and volumes over consecutive trusted listings.
//!
//! This record is kept in memory only. Grace periods must count only time in which listings were taken. After a start
//! the record is empty, and after a suspend or a clock jump [`Presence::forget`] clears it, so that all grace periods
//! start over. Time without listings therefore never counts as absence.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{ids::WorkspaceId, time::Awake};

/// How long, and in how many consecutive listings up to the newest, an item was present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// Time of the first of these listings.
    pub since: Awake,
    /// Number of listings.
    pub listings: u32,
}

/// How long, and in how many consecutive listings up to the newest, a workspace had no container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Absent {
    /// Duration.
    pub time: Duration,
    /// Number of listings.
    pub listings: u32,
}

/// Maximum number of listing times that are kept. If there are more, one is dropped: the one whose neighbours are
/// closest together, compared to its age. Recent times are therefore dense, older ones sparse, and the oldest is always
/// kept. If the time at which an absence began was dropped, the absence counts from the next time that is kept. It can
/// therefore only be measured too short, by a few percent.
const REMEMBERED: usize = 512;

/// A workspace that is no longer registered is dropped from the record after this many listings without it.
const FORGOTTEN_AFTER: u32 = 256;

/// The record of the listings of one liveness epoch.
#[derive(Clone, Debug, Default)]
pub struct Presence {
    listings: u32,
    /// Numbers and times of the listings that are kept, the newest last. The first listing of the record has number 1.
    taken: Vec<(u32, Awake)>,
    items: BTreeMap<String, Sighting>,
    last_held: BTreeMap<WorkspaceId, u32>,
    running: BTreeMap<WorkspaceId, u32>,
}

impl Presence {
    /// Records a trusted listing: its items (container ids, volume names), the workspaces that have a container in it,
    /// and those with a running one.
    pub fn note<'a>(
        &mut self,
        at: Awake,
        items: impl Iterator<Item = &'a str>,
        with_container: impl Iterator<Item = WorkspaceId>,
        running: impl Iterator<Item = WorkspaceId>,
    ) {
        self.listings += 1;
        self.taken.push((self.listings, at));
        if self.taken.len() > REMEMBERED {
            self.thin_out();
        }
        let mut now = BTreeMap::new();
        for item in items {
            let before = self.items.get(item);
            let seen = before.map_or(Sighting { since: at, listings: 1 }, |seen| Sighting {
                since: seen.since,
                listings: seen.listings + 1,
            });
            now.insert(item.to_owned(), seen);
        }
        self.items = now;
        let present: BTreeSet<_> = with_container.collect();
        for workspace in present {
            self.last_held.insert(workspace, self.listings);
        }
        for workspace in running {
            self.running.insert(workspace, self.listings);
        }
    }

    /// Drops the listing whose neighbours are closest together, compared to its age. Never drops the oldest or the
    /// newest.
    fn thin_out(&mut self) {
        let Some((_, newest)) = self.taken.last().copied() else { return };
        // Gap and age as a fraction, compared by cross-multiplication.
        let (mut dropped, mut closest) = (1, (u64::MAX, 1));
        for (index, three) in self.taken.windows(3).enumerate() {
            let ((_, before), (_, after)) = (three[0], three[2]);
            let (gap, age) = (after.0 - before.0, (newest.0 - before.0).max(1));
            if u128::from(gap) * u128::from(closest.1) < u128::from(closest.0) * u128::from(age) {
                (dropped, closest) = (index + 1, (gap, age));
            }
        }
        self.taken.remove(dropped);
    }

    /// Drops workspaces that are no longer registered and were in none of the last `FORGOTTEN_AFTER` listings, so that
    /// memory use does not grow without limit.
    pub fn keep_only(&mut self, is_registered: &dyn Fn(WorkspaceId) -> bool) {
        let listings = self.listings;
        let stays = |workspace: &WorkspaceId, last: &mut u32| {
            listings - *last < FORGOTTEN_AFTER || is_registered(*workspace)
        };
        self.last_held.retain(stays);
        self.running.retain(stays);
    }

    /// Number of listing times, items and workspaces in the record.
    #[must_use]
    pub fn size(&self) -> usize {
        self.taken.len() + self.items.len() + self.last_held.len() + self.running.len()
    }

    /// Clears the record, so that all grace periods start over.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    /// How long an item has been present without interruption; `None` if it is not in the newest listing.
    #[must_use]
    pub fn seen(&self, item: &str) -> Option<Sighting> {
        self.items.get(item).copied()
    }

    /// How long a workspace has had no container. At the time `there` it is known to have had one, so only listings
    /// after `there` count. A listing of the same millisecond may have been taken before, so it does not count.
    #[must_use]
    pub fn absent(&self, workspace: WorkspaceId, there: Awake, now: Awake) -> Absent {
        // The absence begins with the first listing without a container, not with the last listing with one: the time
        // between two listings was not observed.
        let held = self.last_held.get(&workspace).copied().unwrap_or(0);
        let first = self.taken.partition_point(|(number, at)| *number <= held || *at <= there);
        match self.taken.get(first) {
            Some((number, at)) => Absent { time: now.since(*at), listings: self.listings - number + 1 },
            None => Absent { time: Duration::ZERO, listings: 0 },
        }
    }

    /// Number of consecutive listings, up to the newest, in which a workspace had no running container.
    #[must_use]
    pub fn not_running(&self, workspace: WorkspaceId) -> u32 {
        self.listings - self.running.get(&workspace).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    const A: WorkspaceId = WorkspaceId(Uuid::from_u128(1));

    fn listing(presence: &mut Presence, at: u64, present: bool) {
        let held: Vec<_> = present.then_some(A).into_iter().collect();
        let items: Vec<_> = present.then_some("thing").into_iter().collect();
        presence.note(Awake(at), items.into_iter(), held.iter().copied(), held.iter().copied());
    }

    #[test]
    fn absence_counts_from_first_listing_without_container() {
        let mut presence = Presence::default();
        assert_eq!(presence.absent(A, Awake(0), Awake(9_000)).listings, 0, "no listing was recorded yet");
        listing(&mut presence, 1_000, false);
        assert_eq!(presence.absent(A, Awake(0), Awake(1_000)), Absent { time: Duration::ZERO, listings: 1 });
        listing(&mut presence, 61_000, false);
        assert_eq!(
            presence.absent(A, Awake(0), Awake(61_000)),
            Absent { time: Duration::from_mins(1), listings: 2 }
        );
        listing(&mut presence, 70_000, true);
        assert_eq!(presence.absent(A, Awake(0), Awake(71_000)).listings, 0, "the container is present again");
        listing(&mut presence, 80_000, false);
        assert_eq!(presence.absent(A, Awake(0), Awake(80_000)).listings, 1);
        presence.forget();
        assert_eq!(presence.absent(A, Awake(0), Awake(99_000)), Absent { time: Duration::ZERO, listings: 0 });
    }

    #[test]
    fn absence_ignores_listings_before_the_container_existed() {
        let mut presence = Presence::default();
        for at in [1_000, 31_000, 61_000] {
            listing(&mut presence, at, false);
        }
        let absent = |there, now| presence.absent(A, Awake(there), Awake(now));
        assert_eq!(absent(0, 61_000), Absent { time: Duration::from_mins(1), listings: 3 });
        assert_eq!(absent(30_999, 61_000), Absent { time: Duration::from_secs(30), listings: 2 });
        assert_eq!(
            absent(31_000, 61_000),
            Absent { time: Duration::ZERO, listings: 1 },
            "a listing of the same millisecond does not count"
        );
        assert_eq!(absent(70_000, 70_000), Absent { time: Duration::ZERO, listings: 0 });
    }

    #[test]
    fn long_absence_is_measured_with_bounded_memory() {
        let mut presence = Presence::default();
        listing(&mut presence, 500, true);
        let grace = Duration::from_hours(3);
        let last = 1_000 + u64::try_from(grace.as_millis()).unwrap();
        for at in (1_000..=last).step_by(1_000) {
            listing(&mut presence, at, false);
            assert!(presence.size() <= REMEMBERED + 3, "{} entries are kept", presence.size());
        }
        let absent = |there| presence.absent(A, Awake(there), Awake(last));
        let whole = absent(0).time;
        assert!(whole <= grace && whole >= grace * 19 / 20, "{whole:?} of {grace:?}");
        let halfway = absent(last / 2).time;
        assert!(halfway <= grace / 2, "absence is never measured too long");
        assert!(halfway >= grace * 9 / 20, "{halfway:?} of {:?}", grace / 2);
        assert_eq!(absent(last - 5_000).time, Duration::from_secs(4), "recent absence is exact");
    }

    #[test]
    fn unregistered_workspaces_are_dropped_from_presence() {
        let mut presence = Presence::default();
        for number in 0..10_000_u32 {
            let id = WorkspaceId(Uuid::from_u128(u128::from(number)));
            presence.note(
                Awake(u64::from(number)),
                ["thing"].into_iter(),
                [id].into_iter(),
                [id].into_iter(),
            );
            presence.keep_only(&|workspace| workspace == A);
        }
        assert!(
            presence.size() <= REMEMBERED + 1 + 2 * (FORGOTTEN_AFTER as usize + 1),
            "{}",
            presence.size()
        );
        assert!(presence.last_held.contains_key(&A), "a registered workspace is kept");
    }

    #[test]
    fn item_counts_as_new_after_a_listing_without_it() {
        let mut presence = Presence::default();
        listing(&mut presence, 1_000, true);
        listing(&mut presence, 2_000, true);
        assert_eq!(presence.seen("thing"), Some(Sighting { since: Awake(1_000), listings: 2 }));
        listing(&mut presence, 3_000, false);
        assert_eq!(presence.seen("thing"), None);
        listing(&mut presence, 4_000, true);
        assert_eq!(presence.seen("thing"), Some(Sighting { since: Awake(4_000), listings: 1 }));
    }
}
