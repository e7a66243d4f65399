//! Carries out a planned action. All decisions were made in the plan: each action is one guarded statement, or one
//! order to the actor of its workspace, which reads the row again before it acts.

use serde_json::json;

use super::{Look, SweepError, Sweeper};
use crate::{
    domain::{
        ids::Incarnation,
        plan::{Action, Planned},
        status::Cause,
        time::Timestamp,
        trash::{Things, TrashReason},
    },
    ops::{Applied, Order, PutAway, StartOrder},
    store::{ClaimGuard, DeleteGuard, StaleTokens, StatusChange, Unless},
};

impl Sweeper {
    pub(super) async fn apply(
        &self,
        pass: &'static str,
        planned: &Planned,
        look: &Look,
    ) -> Result<Applied, SweepError> {
        let id = planned.action.workspace();
        let put_away_counted = |reason, things: &Things, guard, swept_by| {
            Order::PutAway(PutAway {
                name: planned.name.clone(),
                reason,
                evidence: planned.evidence.clone(),
                things: things.clone(),
                guard,
                swept_by,
            })
        };
        let put_away = |reason, things: &Things, guard| put_away_counted(reason, things, guard, Some(pass));
        let order = match &planned.action {
            Action::RevokeStaleTokens { workspace, older_than } => {
                // The UPDATE compares the token's age with the wall clock: if that was set back since the listing, a
                // new token would look old.
                if self.jumped_since(look) {
                    return Ok(Applied::Raced("the clocks or the liveness epoch changed meanwhile".into()));
                }
                let stale = StaleTokens {
                    workspace: *workspace,
                    older_than: *older_than,
                    without_age: self.without_age,
                };
                return self.revoke(stale, planned, pass).await;
            }
            Action::TrashRemoved { things, .. } => {
                put_away(TrashReason::Removed, things, ClaimGuard::RowRemoved)
            }
            Action::TrashUnknown { things, .. } => put_away(TrashReason::Unknown, things, ClaimGuard::NoRow),
            Action::TrashStray { container, never_ran, .. } => {
                let things = Things { container: Some(container.clone()), volumes: Vec::new() };
                let guard = ClaimGuard::NotTheRows(container.id.clone());
                // An action that the plan does not count against the breaker is not counted in the following hour
                // either.
                put_away_counted(TrashReason::Stray, &things, guard, (!never_ran).then_some(pass))
            }
            Action::FinishTrash { entry, .. } => Order::FinishPutAway(*entry),
            Action::FinishRestore { entry, .. } => Order::Restore(*entry),
            Action::Purge { .. } => Order::Purge,
            Action::DeleteTrash { entry, .. } => {
                let guard = DeleteGuard::KeptUntilBefore(look.asked_at());
                Order::Delete { entry: *entry, guard, swept_by: Some(pass) }
            }
            Action::StopContainer { .. } => Order::Stop { swept: Some((pass, planned.evidence.clone())) },
            Action::StartAnew { .. } => {
                // Not awaited: a start may pull an image for half an hour.
                self.ops.begin(id, Order::Start(StartOrder::default()));
                return Ok(Applied::Done("queued".into()));
            }
            Action::MarkSilent { incarnation, heard_before, external, .. } => {
                let cause = if *external { Cause::ExternalSilent } else { Cause::Unwell };
                return self.mark_silent(planned, (cause, *incarnation), *heard_before, look).await;
            }
            Action::RestartUnwell { heard_before, .. } => {
                if self.jumped_since(look) {
                    return Ok(Applied::Raced("the clocks or the liveness epoch changed meanwhile".into()));
                }
                let unless = Unless::HeardSince(*heard_before);
                let order = Order::RestartUnwell { unless, why: planned.evidence.clone(), swept_by: pass };
                self.ops.begin(id, order);
                return Ok(Applied::Done("queued".into()));
            }
            Action::TimeOutProvisioning { incarnation, since, limit_seconds, .. } => {
                if self.jumped_since(look) {
                    return Ok(Applied::Raced("the clocks or the liveness epoch changed meanwhile".into()));
                }
                return Ok(self.ops.time_out_provisioning(id, *incarnation, *since, *limit_seconds).await?);
            }
            Action::Hibernate { idle_since, .. } => {
                if self.jumped_since(look) {
                    return Ok(Applied::Raced("the clocks or the liveness epoch changed meanwhile".into()));
                }
                return Ok(self.ops.hibernate_idle(id, *idle_since, planned.evidence.clone()).await?);
            }
            Action::FinishHibernation { .. } => Order::FinishHibernation,
            Action::FlagWedged { quiet_since, .. } => {
                if self.jumped_since(look) {
                    return Ok(Applied::Raced("the clocks or the liveness epoch changed meanwhile".into()));
                }
                let (evidence, now) = (planned.evidence.clone(), self.clock.now());
                let flagged = self.store.flag_wedged(id, *quiet_since, evidence, now).await?;
                let raced = || Applied::Raced("it made progress meanwhile".into());
                return Ok(if flagged { Applied::Done("flagged".into()) } else { raced() });
            }
            Action::RestartDue { .. } => {
                // Not awaited, like every start.
                self.ops.begin(id, Order::RestartDue);
                return Ok(Applied::Done("queued".into()));
            }
            Action::MarkOffline { incarnation, .. } => Order::MarkOffline(*incarnation),
            Action::MarkReady { incarnation, container, .. } => {
                Order::MarkReady(*incarnation, container.clone())
            }
        };
        Ok(self.ops.order(id, order).await?)
    }

    async fn mark_silent(
        &self,
        planned: &Planned,
        (cause, incarnation): (Cause, Incarnation),
        heard_before: Timestamp,
        look: &Look,
    ) -> Result<Applied, SweepError> {
        if self.jumped_since(look) {
            return Ok(Applied::Raced("the clocks or the liveness epoch changed meanwhile".into()));
        }
        let change = StatusChange {
            workspace: planned.action.workspace(),
            cause,
            incarnation: Some(incarnation),
            detail: Some(format!("silent: {}", planned.evidence)),
            told: json!({ "reason": "silent", "evidence": planned.evidence }),
            at: self.clock.now(),
        };
        let marked = self.store.change_status_unless(change, Unless::HeardSince(heard_before)).await?;
        Ok(if marked {
            Applied::Done("silent".into())
        } else {
            Applied::Raced("a heartbeat was received meanwhile".into())
        })
    }

    /// Revokes tokens in one statement that contains every store-side condition.
    pub(super) async fn revoke(
        &self,
        stale: StaleTokens,
        planned: &Planned,
        pass: &'static str,
    ) -> Result<Applied, SweepError> {
        let evidence = planned.evidence.clone();
        let revoked = self.store.revoke_stale_tokens(stale, evidence, pass, self.clock.now()).await?;
        Ok(match revoked.as_slice() {
            [] => Applied::Raced("its token is new, was used, or is no longer valid".into()),
            incarnations => Applied::Done(format!("tokens revoked: {}", incarnations.len())),
        })
    }
}
