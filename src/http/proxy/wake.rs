//! Limits how often workspaces may wake each other.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::domain::{ids::WorkspaceId, time::Awake};

/// Limit of wakes per hour, for each pair of sender and target.
///
/// Without this limit, two agents that happen to greet each other every hour would never stay hibernated. Messages that
/// arrive while their target is being woken wait for the same wake and are not counted.
#[derive(Default)]
pub(in crate::http) struct WakeBudget {
    wakes: Mutex<Wakes>,
}

#[derive(Default)]
struct Wakes {
    /// Times of the wakes within the last hour, by sender and target.
    woken: HashMap<(WorkspaceId, WorkspaceId), VecDeque<Awake>>,
    /// Wake operations in progress, by target.
    under_way: HashMap<WorkspaceId, usize>,
}

impl WakeBudget {
    /// Begins a wake; [`Self::end`] must be called for it. Wakes by an admin are not limited.
    ///
    /// # Errors
    /// The seconds until another wake is allowed, at least one.
    pub(super) fn begin(
        &self,
        from: Option<WorkspaceId>,
        to: WorkspaceId,
        now: Awake,
        per_hour: u32,
    ) -> Result<(), u64> {
        const HOUR: Duration = Duration::from_hours(1);
        let mut wakes = self.wakes.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(from), false) = (from, wakes.under_way.contains_key(&to)) {
            wakes.woken.retain(|_, times| times.back().is_some_and(|last| now.since(*last) < HOUR));
            let times = wakes.woken.entry((from, to)).or_default();
            times.retain(|at| now.since(*at) < HOUR);
            if times.len() >= usize::try_from(per_hour).unwrap_or(usize::MAX) {
                let free_in = times.front().map_or(HOUR, |first| HOUR.saturating_sub(now.since(*first)));
                return Err(free_in.as_secs().max(1));
            }
            times.push_back(now);
        }
        *wakes.under_way.entry(to).or_default() += 1;
        Ok(())
    }

    pub(super) fn end(&self, to: WorkspaceId) {
        let mut wakes = self.wakes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = wakes.under_way.get_mut(&to) {
            *count -= 1;
            if *count == 0 {
                wakes.under_way.remove(&to);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn id(number: u128) -> WorkspaceId {
        WorkspaceId(Uuid::from_u128(number))
    }

    #[test]
    fn wakes_per_hour_are_limited_for_each_sender_and_target() {
        let budget = WakeBudget::default();
        let (a, b) = (id(1), id(2));
        let minute = 60_000;
        let take = |budget: &WakeBudget, from, to, now| {
            budget.begin(Some(from), to, Awake(now), 2).inspect(|()| budget.end(to))
        };
        assert_eq!(take(&budget, a, b, 0), Ok(()));
        assert_eq!(take(&budget, a, b, 10 * minute), Ok(()));
        assert_eq!(take(&budget, a, b, 20 * minute), Err(40 * 60));
        assert_eq!(take(&budget, b, a, 20 * minute), Ok(()), "each pair has its own budget");
        assert_eq!(take(&budget, a, b, 61 * minute), Ok(()));
        let none = WakeBudget::default().begin(Some(a), b, Awake(0), 0);
        assert_eq!(none, Err(3600));
    }

    #[test]
    fn sender_that_joins_a_wake_in_progress_uses_no_budget() {
        let budget = WakeBudget::default();
        let (a, b, c) = (id(1), id(2), id(3));
        assert_eq!(budget.begin(Some(a), b, Awake(0), 1), Ok(()));
        assert_eq!(budget.begin(Some(a), b, Awake(1), 1), Ok(()));
        assert_eq!(budget.begin(Some(c), b, Awake(1), 1), Ok(()));
        for _ in 0..3 {
            budget.end(b);
        }
        assert!(budget.begin(Some(a), b, Awake(2), 1).is_err(), "the sender's budget is spent");
        assert_eq!(budget.begin(Some(c), b, Awake(2), 1), Ok(()), "the other sender's budget is unused");
    }
}
