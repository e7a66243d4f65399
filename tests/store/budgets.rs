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
async fn refunded_restart_is_available_again() {
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
    // As after a crash between charge and start: without a refund, the charge stays.
    assert_eq!(claim(&fixture, id, allowed + 1).await, None, "a restart beyond the budget was allowed");
    assert_eq!(fixture.store.refund_restart(last).await, Ok(true));
    assert_eq!(fixture.store.refund_restart(last).await, Ok(false), "a charge was refunded twice");
    assert!(claim(&fixture, id, allowed + 2).await.is_some(), "the refunded restart is not available");
    assert_eq!(claim(&fixture, id, allowed + 3).await, None, "more than one restart was refunded");
}

#[tokio::test]
async fn restart_that_has_begun_is_not_refunded() {
    let fixture = Fixture::new().await;
    let (id, _) = fixture.online("w", T0).await;
    fixture.force(id, Status::Degraded);
    let claimed = claim(&fixture, id, 1).await.unwrap();
    fixture.start(id, Timestamp(T0.0 + 2000)).await.unwrap();
    assert_eq!(fixture.store.refund_restart(claimed).await, Ok(false));
}
