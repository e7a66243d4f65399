//! The activity of one connection: its requests in flight, and since when it is idle.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::owner::Owner;
use crate::{domain::time::Awake, runtime::clock::SharedClock};

/// Activity of one connection: its owner, its requests in flight, and the time at which the last request ended.
pub(super) struct Activity {
    clock: SharedClock,
    /// The owner under which the connection is counted. Changed only while the table is locked.
    pub(super) owner: Mutex<Owner>,
    /// Cancelled when the slot of this connection is needed for another one. The connection is then closed.
    pub(super) eviction: CancellationToken,
    /// Requests in flight: from a complete head to the end of the response body.
    pub(super) busy: AtomicUsize,
    /// Time at which the last request ended, or the connection began, in milliseconds of awake time.
    pub(super) quiet_since: AtomicU64,
}

impl Activity {
    pub(super) fn new(clock: SharedClock, peer: IpAddr) -> Self {
        let quiet_since = AtomicU64::new(clock.awake().0);
        let (owner, eviction) = (Mutex::new(Owner::Address(peer)), CancellationToken::new());
        Self { clock, owner, eviction, busy: AtomicUsize::new(0), quiet_since }
    }

    pub(super) fn owner(&self) -> Owner {
        *self.owner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves when there has been no request for `limit`.
    ///
    /// The timer is armed once per `limit`, not for every request: when it fires, the remaining time is computed from
    /// `quiet_since`.
    pub(super) async fn stopped_for(&self, limit: Duration) {
        loop {
            let quiet = if self.busy.load(Ordering::Acquire) > 0 {
                Duration::ZERO
            } else {
                self.clock.awake().since(Awake(self.quiet_since.load(Ordering::Acquire)))
            };
            let Some(left) = limit.checked_sub(quiet).filter(|left| !left.is_zero()) else { return };
            self.clock.sleep(left).await;
        }
    }
}

/// Guard of a request in flight; ends the request on drop.
pub(super) struct RequestGuard(Arc<Activity>);

impl RequestGuard {
    pub(super) fn begin(activity: &Arc<Activity>) -> Self {
        activity.busy.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(activity))
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        // The time is stored first: a reader that sees no request in flight must also see the time at which the last
        // one ended.
        self.0.quiet_since.store(self.0.clock.awake().0, Ordering::Release);
        self.0.busy.fetch_sub(1, Ordering::AcqRel);
    }
}
