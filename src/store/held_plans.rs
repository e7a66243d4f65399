//! The plans of sweep passes that the breaker holds until an operator approves them.

use rusqlite::{OptionalExtension, Row, params};
use serde_json::json;

use super::{Store, StoreResult, row};
use crate::domain::{event::EventKind, ids::PlanId, time::Timestamp};

/// Plan to hold until an operator approves it.
#[derive(Clone, Debug)]
pub struct NewHeldPlan {
    /// Id by which an operator approves it.
    pub id: PlanId,
    /// Name of the pass that made the plan.
    pub pass: &'static str,
    /// Why the breaker holds it.
    pub reason: String,
    /// Exact actions, as JSON.
    pub plan: serde_json::Value,
}

/// Plan that is held, or that was approved and still has actions to carry out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldPlanRow {
    /// Id by which an operator approves it.
    pub id: PlanId,
    /// Name of the pass that made the plan.
    pub pass: String,
    /// Why the breaker holds it.
    pub reason: String,
    /// Actions, as JSON.
    pub plan: serde_json::Value,
    /// When the breaker held it.
    pub held_at: Timestamp,
    /// When an operator approved it; `None` before.
    pub approved_at: Option<Timestamp>,
}

/// Result of approving a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Approval {
    /// The plan is approved, now or by an earlier call.
    Approved(HeldPlanRow),
    /// The pass now holds another plan; contains that plan's id.
    Superseded(PlanId),
    /// The pass holds no plan.
    NothingHeld,
}

fn held(row: &Row<'_>) -> rusqlite::Result<HeldPlanRow> {
    let plan: String = row.get(3)?;
    Ok(HeldPlanRow {
        pass: row.get(0)?,
        id: row.get(1)?,
        reason: row.get(2)?,
        plan: serde_json::from_str(&plan).map_err(row::conversion)?,
        held_at: row.get(4)?,
        approved_at: row.get(5)?,
    })
}

const HELD: &str = "SELECT pass, id, reason, plan, held_at, approved_at FROM held_plans";

impl Store {
    /// Returns a pass's plan that is held, or that was approved and still has actions to carry out.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn held_plan(&self, pass: &'static str) -> StoreResult<Option<HeldPlanRow>> {
        self.lanes
            .read("held plan", move |sql| {
                let mut query = sql.prepare_cached(&format!("{HELD} WHERE pass = ?1"))?;
                Ok(query.query_row([pass], held).optional()?)
            })
            .await
    }

    /// Holds a plan, replacing an earlier one of the same pass, and emits an event.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn hold_plan(&self, new: NewHeldPlan, at: Timestamp) -> StoreResult<()> {
        self.lanes
            .write("hold plan", move |tx| {
                tx.sql
                    .prepare_cached(
                        "INSERT INTO held_plans (pass, id, reason, plan, held_at) VALUES (?1, ?2, ?3, ?4, ?5)
                         ON CONFLICT (pass) DO UPDATE SET id = ?2, reason = ?3, plan = ?4, held_at = ?5,
                           approved_at = NULL",
                    )?
                    .execute(params![new.pass, new.id, new.reason, new.plan.to_string(), at])?;
                let payload =
                    json!({ "pass": new.pass, "plan_id": new.id, "reason": new.reason, "plan": new.plan });
                tx.emit(at, EventKind::SweepHeld, None, payload, None)
            })
            .await
    }

    /// Approves the held plan of a pass on behalf of an operator, but only if the plan has this id.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn approve_plan(&self, pass: String, plan: PlanId, at: Timestamp) -> StoreResult<Approval> {
        self.lanes
            .write("approve plan", move |tx| {
                let held: Option<HeldPlanRow> = tx
                    .sql
                    .prepare_cached(&format!("{HELD} WHERE pass = ?1"))?
                    .query_row([&pass], held)
                    .optional()?;
                let Some(mut held) = held else { return Ok(Approval::NothingHeld) };
                if held.id != plan {
                    return Ok(Approval::Superseded(held.id));
                }
                if held.approved_at.is_none() {
                    tx.sql
                        .prepare_cached("UPDATE held_plans SET approved_at = ?2 WHERE pass = ?1")?
                        .execute(params![pass, at])?;
                    held.approved_at = Some(at);
                    let payload = json!({ "pass": pass, "plan_id": plan });
                    tx.emit(at, EventKind::SweepApproved, None, payload, None)?;
                }
                Ok(Approval::Approved(held))
            })
            .await
    }

    /// Deletes a plan whose cause no longer exists, or whose approved actions have all been carried out.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn drop_held_plan(&self, pass: &'static str, id: PlanId) -> StoreResult<()> {
        self.lanes
            .write("drop held plan", move |tx| {
                tx.sql
                    .prepare_cached("DELETE FROM held_plans WHERE pass = ?1 AND id = ?2")?
                    .execute(params![pass, id])?;
                Ok(())
            })
            .await
    }
}
