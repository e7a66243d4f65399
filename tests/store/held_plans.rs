//! Plans held by the breaker: an operator approves exactly one, by its id.

use ostler::{
    domain::ids::PlanId,
    store::{Approval, NewHeldPlan},
};
use serde_json::json;

use super::{Fixture, minute, uuid};

fn plan(number: u32) -> NewHeldPlan {
    NewHeldPlan { id: PlanId(uuid()), pass: "reap_unknown", reason: "too many".into(), plan: json!([number]) }
}

#[tokio::test]
async fn approval_applies_only_to_the_plan_with_the_given_id() {
    let fixture = Fixture::new().await;
    let (first, second) = (plan(1), plan(2));
    let approve = |id, at| fixture.store.approve_plan("reap_unknown".into(), id, minute(at));
    assert_eq!(approve(first.id, 1).await, Ok(Approval::NothingHeld));

    fixture.store.hold_plan(first.clone(), minute(1)).await.unwrap();
    fixture.store.hold_plan(second.clone(), minute(2)).await.unwrap();
    let before = fixture.dump();
    assert_eq!(approve(first.id, 3).await, Ok(Approval::Superseded(second.id)), "an older plan was approved");
    assert_eq!(approve(PlanId(uuid()), 3).await, Ok(Approval::Superseded(second.id)));
    let elsewhere = fixture.store.approve_plan("empty_trash".into(), second.id, minute(3)).await;
    assert_eq!(elsewhere, Ok(Approval::NothingHeld));
    assert_eq!(fixture.dump(), before, "a refused approval changed something");

    let Ok(Approval::Approved(row)) = approve(second.id, 4).await else { panic!("it was not approved") };
    assert_eq!((row.id, row.plan, row.approved_at), (second.id, json!([2]), Some(minute(4))));
    let events = fixture.events().await.len();
    let Ok(Approval::Approved(row)) = approve(second.id, 5).await else { panic!("it was not approved") };
    assert_eq!(row.approved_at, Some(minute(4)), "the first approval is kept");
    assert_eq!(fixture.events().await.len(), events, "an approval was reported twice");
}

#[tokio::test]
async fn new_held_plan_discards_the_approval_of_the_old_one() {
    let fixture = Fixture::new().await;
    let (first, second) = (plan(1), plan(2));
    fixture.store.hold_plan(first.clone(), minute(1)).await.unwrap();
    fixture.store.approve_plan("reap_unknown".into(), first.id, minute(2)).await.unwrap();
    fixture.store.hold_plan(second.clone(), minute(3)).await.unwrap();
    let held = fixture.store.held_plan("reap_unknown").await.unwrap().unwrap();
    assert_eq!((held.id, held.approved_at), (second.id, None));
}

#[tokio::test]
async fn held_plan_is_dropped_by_its_id_only() {
    let fixture = Fixture::new().await;
    let held = plan(1);
    fixture.store.hold_plan(held.clone(), minute(1)).await.unwrap();
    fixture.store.drop_held_plan("reap_unknown", PlanId(uuid())).await.unwrap();
    fixture.store.drop_held_plan("empty_trash", held.id).await.unwrap();
    assert!(fixture.store.held_plan("reap_unknown").await.unwrap().is_some());
    fixture.store.drop_held_plan("reap_unknown", held.id).await.unwrap();
    assert_eq!(fixture.store.held_plan("reap_unknown").await, Ok(None));
}
