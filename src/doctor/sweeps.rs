//! Checks for plans that wait for approval.

use super::{
    parts::Doctor,
    verdict::{ok, warn},
};
use crate::{api::doctor::Check, store::StoreResult, sweep};

impl Doctor {
    pub(super) async fn held(&self) -> StoreResult<Check> {
        let mut held = Vec::new();
        for pass in sweep::all() {
            if let Some(plan) =
                self.0.store.held_plan(pass.name()).await?.filter(|plan| plan.approved_at.is_none())
            {
                held.push(format!("{}: {}", plan.pass, plan.reason));
            }
        }
        Ok(if held.is_empty() {
            ok("sweeps", "no plan is held")
        } else {
            warn(
                "sweeps",
                held.join("; "),
                "`ostler sweep show PASS`, then `ostler sweep approve PASS PLAN_ID`",
            )
        })
    }
}
