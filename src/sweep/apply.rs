//! Carries out a planned action. All decisions were made when planning. An action is one SQL statement with guards, or
//! one order to the actor of its workspace, which reads the row again before it acts.

use serde_json::json;

use super::{
    context::{Snapshot, Sweeper},
    error::SweepError,
};
use crate::{
    domain::{
        action::Action,
        ids::Incarnation,
        plan::Planned,
        status::Cause,
        time::Timestamp,
        trash::{TrashContents, TrashReason},
    },
    ops::{Applied, MoveToTrash, Order, StartOrder},
    store::{ClaimGuard, DeleteGuard, Precondition, StaleTokens, StatusChange},
};

impl Sweeper {
    pub(super) async fn apply(
        &self,
        pass: &'static str,
        planned: &Planned,
        snapshot: &Snapshot,
    ) -> Result<Applied, SweepError> {
        let id = planned.action.workspace();
        // For example, the UPDATE that revokes tokens compares their creation times with a time of the wall clock. If
        // that clock was set back since the listing, a newer token would look older than the listing.
        if planned.action.is_timed() && self.jumped_since(snapshot) {
            return Ok(Applied::Raced("meanwhile a clock jumped or heartbeats could not be received".into()));
        }
        let move_to_trash_counted = |reason, contents: &TrashContents, guard, swept_by| {
            Order::MoveToTrash(MoveToTrash {
                name: planned.name.clone(),
                reason,
                evidence: planned.evidence.clone(),
                contents: contents.clone(),
                guard,
                swept_by,
            })
        };
        let move_to_trash = |reason, contents: &TrashContents, guard| {
            move_to_trash_counted(reason, contents, guard, Some(pass))
        };
        let order = match &planned.action {
            Action::RevokeStaleTokens { workspace, older_than } => {
                let stale = StaleTokens {
                    workspace: *workspace,
                    older_than: *older_than,
                    without_age: self.without_age,
                };
                return self.revoke(stale, planned, pass).await;
            }
            Action::TrashRemoved { contents, .. } => {
                move_to_trash(TrashReason::Removed, contents, ClaimGuard::RowRemoved)
            }
            Action::TrashUnknown { contents, .. } => {
                move_to_trash(TrashReason::Unknown, contents, ClaimGuard::NoRow)
            }
            Action::TrashStray { container, never_ran, .. } => {
                let contents = TrashContents { container: Some(container.clone()), volumes: Vec::new() };
                let guard = ClaimGuard::NotTheRows(container.id.clone());
                // If the plan does not count the action against the breaker, its event must not count in the following
                // hour either.
                move_to_trash_counted(TrashReason::Stray, &contents, guard, (!never_ran).then_some(pass))
            }
            Action::FinishTrash { entry, .. } => Order::FinishMoveToTrash(*entry),
            Action::FinishRestore { entry, .. } => Order::Restore(*entry),
            Action::Purge { .. } => Order::Purge,
            Action::DeleteTrash { entry, .. } => {
                let guard = DeleteGuard::RetentionEndedBefore(snapshot.asked_at());
                Order::Delete { entry: *entry, guard, swept_by: Some(pass) }
            }
            Action::StopContainer { .. } => Order::Stop { swept: Some((pass, planned.evidence.clone())) },
            Action::StartAgain { .. } => {
                // Not awaited: a start may pull an image for half an hour.
                self.ops.begin(id, Order::Start(StartOrder::default()));
                return Ok(Applied::Done("queued".into()));
            }
            Action::MarkSilent { incarnation, heartbeat_before, external, .. } => {
                let cause = if *external { Cause::ExternalSilent } else { Cause::ReportedDegraded };
                return self.mark_silent(planned, (cause, *incarnation), *heartbeat_before).await;
            }
            Action::RestartDegraded { heartbeat_before, .. } => {
                let precondition = Precondition::HeartbeatSince(*heartbeat_before);
                let order =
                    Order::RestartDegraded { precondition, why: planned.evidence.clone(), swept_by: pass };
                self.ops.begin(id, order);
                return Ok(Applied::Done("queued".into()));
            }
            Action::TimeOutProvisioning { incarnation, since, limit_seconds, .. } => {
                return Ok(self.ops.time_out_provisioning(id, *incarnation, *since, *limit_seconds).await?);
            }
            Action::Hibernate { idle_since, .. } => {
                return Ok(self.ops.hibernate_idle(id, *idle_since, planned.evidence.clone()).await?);
            }
            Action::FinishHibernation { .. } => Order::FinishHibernation,
            Action::FlagWedged { quiet_since, .. } => {
                let (evidence, now) = (planned.evidence.clone(), self.clock.now());
                let flagged = self.store.flag_wedged(id, *quiet_since, evidence, now).await?;
                let raced = || Applied::Raced("the agent made progress meanwhile".into());
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
        heartbeat_before: Timestamp,
    ) -> Result<Applied, SweepError> {
        let change = StatusChange {
            workspace: planned.action.workspace(),
            cause,
            incarnation: Some(incarnation),
            detail: Some(format!("silent: {}", planned.evidence)),
            payload: json!({ "reason": "silent", "evidence": planned.evidence }),
            at: self.clock.now(),
        };
        let marked =
            self.store.change_status_under(change, Precondition::HeartbeatSince(heartbeat_before)).await?;
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
            [] => Applied::Raced("the token is new, was used meanwhile, or is no longer valid".into()),
            incarnations => Applied::Done(format!("tokens revoked: {}", incarnations.len())),
        })
    }
}
