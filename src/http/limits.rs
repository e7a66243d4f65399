//! Rate limits of requests per principal.
//!
//! Each key has a token bucket. A bucket is stored as one number: the time at which the bucket will be full again
//! (generic cell rate algorithm). A request advances that time by the refill time of one token. A request is refused if
//! the new time would be further in the future than the fill time of an empty bucket.
//!
//! A crate for this algorithm exists but is not used. It would need adapters for its own instant and clock types, which
//! are longer than the arithmetic below. It would also read the system's time in addition to ostler's clock.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::runtime::clock::SharedClock;

/// As long as there are fewer keys than this, full buckets are not removed.
const FEW: usize = 1024;

/// Rate limit of one principal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    /// Time in which the bucket refills by one request.
    pub(crate) each: Duration,
    /// Requests allowed at once when the bucket is full; at least 1.
    pub(crate) burst: u32,
}

/// Counts requests per key.
///
/// A key is kept only until its bucket is full again. So the number of keys is at most the number of requests within
/// the fill time of a bucket. Keys should be verified principals, not values that an unauthenticated client can choose
/// freely.
pub(crate) struct Limiter<K> {
    clock: SharedClock,
    /// Time in which a bucket refills by one request, in microseconds.
    each: u64,
    /// Fill time of an empty bucket, in microseconds.
    whole: u64,
    buckets: Mutex<Buckets<K>>,
}

struct Buckets<K> {
    /// When each bucket is full again, in microseconds of awake time.
    full_at: HashMap<K, u64>,
    /// Number of keys at which full buckets are removed next.
    prune_at: usize,
}

impl<K: Eq + Hash> Limiter<K> {
    pub(crate) fn new(clock: SharedClock, rate: Rate) -> Self {
        let each = u64::try_from(rate.each.as_micros()).unwrap_or(u64::MAX / 1_000_000).max(1);
        let whole = each * u64::from(rate.burst.max(1));
        let buckets = Mutex::new(Buckets { full_at: HashMap::new(), prune_at: FEW });
        Self { clock, each, whole, buckets }
    }

    /// Counts one request of `key`.
    ///
    /// # Errors
    /// The number of seconds, rounded up and at least one, after which the request would be allowed. A refused request
    /// is not counted.
    pub(crate) fn check(&self, key: K) -> Result<(), u64> {
        let (now, mut buckets) = self.open();
        let full_at = buckets.full_at.entry(key).or_insert(now);
        let moved = (*full_at).max(now) + self.each;
        if moved - now > self.whole {
            let wait = Duration::from_micros(moved - now - self.whole);
            return Err(wait.as_millis().div_ceil(1000).max(1).try_into().unwrap_or(u64::MAX));
        }
        *full_at = moved;
        Ok(())
    }

    /// Counts one request of `key` that is never refused. Returns how long the request has to be delayed: at most
    /// `most`, for any number of requests.
    pub(crate) fn pace(&self, key: K, most: Duration) -> Duration {
        let most = u64::try_from(most.as_micros()).unwrap_or(u64::MAX / 2);
        let (now, mut buckets) = self.open();
        let full_at = buckets.full_at.entry(key).or_insert(now);
        *full_at = ((*full_at).max(now) + self.each).min(now + self.whole + most);
        Duration::from_micros(full_at.saturating_sub(now + self.whole))
    }

    fn open(&self) -> (u64, MutexGuard<'_, Buckets<K>>) {
        let now = self.clock.awake().0.saturating_mul(1000);
        // The lock protects only numbers, so a panic elsewhere cannot have left them inconsistent.
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.full_at.len() >= buckets.prune_at {
            buckets.forget(now);
        }
        (now, buckets)
    }
}

impl<K: Eq + Hash> Buckets<K> {
    /// Removes the full buckets. The next removal waits until there are twice as many keys as remain now, so that the
    /// cost of the removals per request is constant.
    fn forget(&mut self, now: u64) {
        self.full_at.retain(|_, full_at| *full_at > now);
        self.full_at.shrink_to(FEW);
        self.prune_at = FEW.max(self.full_at.len() * 2);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::runtime::manual_clock::ManualClock;

    fn limiter(per_second: u32, burst: u32) -> (Arc<ManualClock>, Limiter<u32>) {
        let clock = Arc::new(ManualClock::default());
        let each = Duration::from_secs(1) / per_second;
        let limiter = Limiter::new(clock.clone(), Rate { each, burst });
        (clock, limiter)
    }

    #[test]
    fn rate_limiter_allows_a_burst_and_then_the_refill_rate() {
        let (clock, limiter) = limiter(2, 5);
        let passed = (0..20).filter(|_| limiter.check(1).is_ok()).count();
        assert_eq!(passed, 5, "only the burst passes");
        assert_eq!(limiter.check(1), Err(1), "half a second is rounded up to one");
        clock.advance(Duration::from_millis(499));
        assert_eq!(limiter.check(1), Err(1));
        clock.advance(Duration::from_millis(1));
        assert_eq!(limiter.check(1), Ok(()));
        assert_eq!(limiter.check(1), Err(1), "only one token was refilled");
        clock.advance(Duration::from_hours(1));
        let passed = (0..20).filter(|_| limiter.check(1).is_ok()).count();
        assert_eq!(passed, 5, "idle time refills the bucket up to the burst");
    }

    #[test]
    fn request_is_allowed_after_the_reported_wait() {
        let (clock, limiter) = limiter(1, 3);
        for _ in 0..50 {
            if let Err(wait) = limiter.check(1) {
                clock.advance(Duration::from_secs(wait));
                assert_eq!(limiter.check(1), Ok(()));
            }
        }
    }

    #[test]
    fn rate_limit_of_one_key_does_not_affect_another() {
        let (_, limiter) = limiter(1, 1);
        assert_eq!(limiter.check(1), Ok(()));
        assert!(limiter.check(1).is_err());
        assert_eq!(limiter.check(2), Ok(()));
    }

    #[test]
    fn paced_requests_are_delayed_up_to_a_maximum() {
        let (clock, limiter) = limiter(10, 3);
        let most = Duration::from_millis(500);
        let mut waits = std::iter::repeat_with(|| limiter.pace(1, most).as_millis());
        assert_eq!(waits.by_ref().take(8).collect::<Vec<_>>(), [0, 0, 0, 100, 200, 300, 400, 500]);
        assert!(
            waits.by_ref().take(1000).all(|wait| wait == 500),
            "the wait is capped for any number of requests"
        );
        assert_eq!(limiter.pace(2, most), Duration::ZERO, "another key is not delayed");
        clock.advance(Duration::from_secs(1));
        assert_eq!(limiter.pace(1, most), Duration::ZERO);
    }

    #[test]
    fn rate_limiter_drops_keys_with_full_buckets() {
        let (clock, limiter) = limiter(1, 2);
        for key in 0..100_000 {
            limiter.check(key).unwrap();
            clock.advance(Duration::from_millis(1));
        }
        let held = limiter.buckets.lock().unwrap().full_at.len();
        assert!(held <= 2048, "{held} keys are kept, although each bucket is full after a second");
    }
}
