//! The restart budget of workspaces that run but are degraded.

use ostler::{
    domain::{budget::RestartBudget, ids::WorkspaceId, status::Status, time::Timestamp},
    store::{ClaimedRestart, Precondition},
};

use super::{Fixture, T0};

async fn claim(fixture: &Fixture, id: WorkspaceId, second: i64) -> Option<ClaimedRestart> {
    let at = Timestamp(T0.0 + second * 1000);
    let (precondition, budget) = (Precondition::HeartbeatSince(T0), RestartBudget::default());
    fixture.store.charge_degraded_restart(id, precondition, budget, at).await.unwrap()
}

#[tokio::test]
async fn released_restart_is_returned_to_the_budget() {
    let fixture = Fixture::new().await;
    let (id, _) = fixture.online("w", T0).await;
    fixture.force(id, Status::Degraded);
    let allowed = i64::try_from(RestartBudget::default().park_after_exits).unwrap() - 1;
    let mut last = None;
    for second in 1..=allowed {
        last = claim(&fixture, id, second).await;
        assert!(last.is_some(), "restart {second} is within the budget");
    }
    let last = last.unwrap();
    // As after a crash between the claim and the start: the reservation is kept.
    assert_eq!(claim(&fixture, id, allowed + 1).await, None, "one more than the budget allows");
    assert_eq!(fixture.store.refund_restart(last).await, Ok(true));
    assert_eq!(fixture.store.refund_restart(last).await, Ok(false), "it was returned twice");
    assert!(claim(&fixture, id, allowed + 2).await.is_some(), "a restart that did not begin is charged");
    assert_eq!(claim(&fixture, id, allowed + 3).await, None, "only one was returned");
}

#[tokio::test]
async fn restart_that_has_begun_is_not_returned_to_the_budget() {
    let fixture = Fixture::new().await;
    let (id, _) = fixture.online("w", T0).await;
    fixture.force(id, Status::Degraded);
    let claimed = claim(&fixture, id, 1).await.unwrap();
    fixture.start(id, Timestamp(T0.0 + 2000)).await.unwrap();
    assert_eq!(fixture.store.refund_restart(claimed).await, Ok(false));
}
