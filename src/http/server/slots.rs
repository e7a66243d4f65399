//! The table of open connections, and which of them is evicted for a new one.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
};

use tokio::sync::Notify;

use super::{activity::Activity, limits::ConnectionLimits, owner::Owner};

/// Most evicted connections that may still be closing.
///
/// Beyond this, new connections wait in the kernel. So even a flood of new connections is accepted no faster than
/// evicted connections close.
const EVICTING_MAX: usize = 64;

/// The table of open connections.
pub(super) struct Slots {
    limits: ConnectionLimits,
    taken: Mutex<Taken>,
    /// Notified when an evicted connection has closed.
    eviction_done: Notify,
}

#[derive(Default)]
struct Taken {
    in_all: usize,
    /// Connections that were evicted and are still closing; no longer part of `in_all`.
    evicting: usize,
    /// Connections of each owner, in the order in which they were added.
    by_owner: HashMap<Owner, Vec<Arc<Activity>>>,
}

/// The slot of one connection; freed on drop.
pub(super) struct Slot {
    slots: Arc<Slots>,
    activity: Arc<Activity>,
}

impl Slots {
    pub(super) fn new(limits: ConnectionLimits) -> Arc<Self> {
        Arc::new(Self { limits, taken: Mutex::default(), eviction_done: Notify::new() })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a slot for a new connection, which is never refused: when the table is full, another connection is
    /// evicted. Also returns whether a connection was evicted.
    pub(super) fn take(slots: &Arc<Self>, activity: &Arc<Activity>) -> (Slot, bool) {
        let owner = activity.owner();
        let mut taken = slots.lock();
        let of_owner = taken.by_owner.get(&owner).map_or(0, Vec::len);
        let evicted = if of_owner >= slots.limits.of(owner) {
            taken.evict(owner, activity)
        } else if taken.in_all >= slots.limits.in_all {
            taken.largest().is_some_and(|owner| taken.evict(owner, activity))
        } else {
            false
        };
        taken.in_all += 1;
        taken.by_owner.entry(owner).or_default().push(Arc::clone(activity));
        (Slot { slots: Arc::clone(slots), activity: Arc::clone(activity) }, evicted)
    }

    /// Moves a connection to another owner. If that owner is at its limit, one of its own connections is evicted, so
    /// that other owners are not affected.
    fn belongs_to(&self, activity: &Arc<Activity>, owner: Owner) {
        let before = activity.owner();
        if before == owner {
            return;
        }
        let mut taken = self.lock();
        if !taken.remove(activity) {
            // Evicted in the meantime.
            return;
        }
        *activity.owner.lock().unwrap_or_else(PoisonError::into_inner) = owner;
        if taken.by_owner.get(&owner).map_or(0, Vec::len) >= self.limits.of(owner) {
            taken.evict(owner, activity);
        }
        taken.in_all += 1;
        taken.by_owner.entry(owner).or_default().push(Arc::clone(activity));
    }

    /// Waits while `EVICTING_MAX` or more evicted connections are still closing.
    pub(super) async fn settled(&self) {
        while self.lock().evicting >= EVICTING_MAX {
            self.eviction_done.notified().await;
        }
    }
}

impl Taken {
    /// The owner that loses a connection when the table is full: the address with the most connections without a token,
    /// or, if there is none, the owner with the most connections.
    fn largest(&self) -> Option<Owner> {
        let unknown = |owner: &Owner| matches!(owner, Owner::Address(_));
        let most = self.by_owner.iter().max_by_key(|(owner, activities)| (unknown(owner), activities.len()));
        most.map(|(owner, _)| *owner)
    }

    /// Evicts one of an owner's connections: cancels its `eviction` token and removes it from the count. Returns
    /// `false` if the owner has none.
    fn evict(&mut self, owner: Owner, new_activity: &Arc<Activity>) -> bool {
        let Some(activities) = self.by_owner.get_mut(&owner) else { return false };
        let Some(at) = eviction_index(owner, activities) else { return false };
        debug_assert!(!Arc::ptr_eq(&activities[at], new_activity), "the new connection is not counted yet");
        activities.remove(at).eviction.cancel();
        if activities.is_empty() {
            self.by_owner.remove(&owner);
        }
        self.in_all -= 1;
        self.evicting += 1;
        true
    }

    /// Removes a connection from the table. Returns `false` if the connection was evicted before and is no longer in
    /// the table.
    fn remove(&mut self, activity: &Arc<Activity>) -> bool {
        let owner = activity.owner();
        let Some(activities) = self.by_owner.get_mut(&owner) else { return false };
        let Some(at) = activities.iter().position(|other| Arc::ptr_eq(other, activity)) else { return false };
        activities.remove(at);
        if activities.is_empty() {
            self.by_owner.remove(&owner);
        }
        self.in_all -= 1;
        true
    }
}

/// Index of the owner's connection that is evicted first.
///
/// Among connections without a token, this is the oldest, which had the most time to send a token. Among others, it is
/// the connection that has been idle longest. If all of those have a request in flight, it is the one whose last
/// completed request is oldest.
fn eviction_index(owner: Owner, activities: &[Arc<Activity>]) -> Option<usize> {
    if matches!(owner, Owner::Address(_)) {
        return (!activities.is_empty()).then_some(0);
    }
    let order = |(at, activity): (usize, &Arc<Activity>)| {
        let busy = activity.busy.load(Ordering::Acquire) > 0;
        (busy, activity.quiet_since.load(Ordering::Acquire), at)
    };
    activities.iter().enumerate().map(order).min().map(|(_, _, at)| at)
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.slots.lock();
        if !taken.remove(&self.activity) {
            // This connection was evicted: its slot already belongs to another connection.
            taken.evicting -= 1;
            self.slots.eviction_done.notify_one();
        }
    }
}

/// The key under which a peer's connections are counted: its IPv4 address, or the /64 of its IPv6 address.
pub(super) fn counted_as(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(peer) => {
            let [a, b, c, d, ..] = peer.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        peer @ IpAddr::V4(_) => peer,
    }
}

/// Request extension for token verification: the connection on which the request arrived.
#[derive(Clone)]
pub(in crate::http) struct Carrier {
    pub(super) activity: Arc<Activity>,
    pub(super) slots: Arc<Slots>,
}

impl Carrier {
    /// Records that a valid token arrived on the connection, which is counted under that token's owner from now on.
    pub(in crate::http) fn belongs_to(&self, owner: Owner) {
        self.slots.belongs_to(&self.activity, owner);
    }
}

#[cfg(test)]
mod tests {
    use crate::runtime::manual_clock::ManualClock;
    use std::time::Duration;

    use futures_util::FutureExt as _;

    use super::*;
    use crate::http::server::tests::{LIMITS, workspace};

    /// Returns a table of slots and a function that takes a slot: from an address, and with the token of a workspace,
    /// if one is given.
    #[expect(clippy::type_complexity, reason = "the type of a closure cannot be named shorter")]
    fn slots(limits: ConnectionLimits) -> (Arc<Slots>, impl Fn(&str, Option<u128>) -> (Slot, bool)) {
        let slots = Slots::new(limits);
        let (clock, table) = (Arc::new(ManualClock::default()), Arc::clone(&slots));
        let take = move |ip: &str, of: Option<u128>| {
            clock.advance(Duration::from_secs(1));
            let activity = Arc::new(Activity::new(clock.clone(), counted_as(ip.parse().unwrap())));
            let taken = Slots::take(&table, &activity);
            if let Some(of) = of {
                activity.busy.store(1, Ordering::Release);
                table.belongs_to(&activity, Owner::Workspace(workspace(of)));
            }
            taken
        };
        (slots, take)
    }

    fn is_evicted(slot: &Slot) -> bool {
        slot.activity.eviction.is_cancelled()
    }

    #[test]
    fn connections_without_a_token_are_counted_by_address() {
        let (table, take) = slots(ConnectionLimits { per_address: 2, ..LIMITS });
        let held = ["10.0.0.1", "::ffff:10.0.0.1", "10.0.0.1"].map(|ip| take(ip, None).0);
        assert_eq!(held.each_ref().map(is_evicted), [true, false, false], "both notations are one address");
        let held6 =
            ["2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8:0:1::3"].map(|ip| take(ip, None).0);
        assert_eq!(held6.each_ref().map(is_evicted), [true, false, false, false], "a /64 counts as one host");
        drop((held, held6));
        let taken = table.lock();
        assert_eq!((taken.in_all, taken.evicting, taken.by_owner.len()), (0, 0, 0));
    }

    #[test]
    fn full_table_evicts_connections_without_a_token_first() {
        let (table, take) = slots(ConnectionLimits { in_all: 5, ..LIMITS });
        let few = take("10.0.0.1", None).0;
        let many: Vec<_> = (0..2).map(|_| take("10.0.0.2", None).0).collect();
        let agent: Vec<_> = (0..2).map(|_| take("10.0.0.3", Some(1)).0).collect();
        let (next, evicted) = take("10.0.0.4", None);
        assert!(
            evicted && is_evicted(&many[0]),
            "the oldest connection of the address with the most is evicted"
        );
        let others = [&few, &many[1], &agent[0], &agent[1], &next];
        assert!(others.iter().all(|slot| !is_evicted(slot)), "no other connection is evicted");
        drop((few, many, agent, next));
        let taken = table.lock();
        assert_eq!((taken.in_all, taken.evicting, taken.by_owner.len()), (0, 0, 0));
    }

    #[test]
    fn full_table_evicts_from_workspace_with_most_connections() {
        let (_table, take) = slots(ConnectionLimits { in_all: 4, ..LIMITS });
        let greedy: Vec<_> = (0..3).map(|_| take("10.0.0.1", Some(1)).0).collect();
        let modest = take("10.0.0.1", Some(2)).0;
        let (third, evicted) = take("10.0.0.1", None);
        assert!(evicted && is_evicted(&greedy[0]), "the oldest connection of that workspace is evicted");
        assert!(![&greedy[1], &greedy[2], &modest, &third].iter().any(|slot| is_evicted(slot)));
    }

    #[test]
    fn workspace_over_limit_evicts_idle_connection_before_busy_one() {
        let (table, take) = slots(ConnectionLimits { per_workspace: 2, ..LIMITS });
        let busy = take("10.0.0.1", Some(1)).0;
        let at_rest = take("10.0.0.1", Some(1)).0;
        at_rest.activity.busy.store(0, Ordering::Release);
        let next = take("10.0.0.2", Some(1)).0;
        assert_eq!([&busy, &at_rest, &next].map(is_evicted), [false, true, false]);
        // A connection may carry another workspace's token later.
        table.belongs_to(&busy.activity, Owner::Workspace(workspace(2)));
        let after = take("10.0.0.2", Some(1)).0;
        assert_eq!([&busy, &next, &after].map(is_evicted), [false, false, false]);
        // An evicted connection is not counted again.
        table.belongs_to(&at_rest.activity, Owner::Workspace(workspace(2)));
        assert_eq!(table.lock().in_all, 3);
    }

    #[test]
    fn accepting_waits_while_too_many_evictions_are_pending() {
        let (table, take) = slots(ConnectionLimits { in_all: 1, per_address: 1, ..LIMITS });
        let mut held: Vec<_> = (0..EVICTING_MAX).map(|_| take("10.0.0.1", None).0).collect();
        assert!(table.settled().now_or_never().is_some());
        held.push(take("10.0.0.1", None).0);
        assert_eq!(held.len(), 1 + EVICTING_MAX);
        assert!(
            table.settled().now_or_never().is_none(),
            "the next connection waits in the kernel's backlog"
        );
        held.remove(0);
        assert!(table.settled().now_or_never().is_some());
        drop(held);
        let taken = table.lock();
        assert_eq!((taken.in_all, taken.evicting), (0, 0));
    }
}
