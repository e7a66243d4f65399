//! Carrying out a planned action. No choice is made here any more: each action is one guarded statement
//! or one order to the actor of its workspace, which reads the row again before it acts.

use super::{Look, SweepError, Sweeper};
use crate::{
    domain::{
        plan::{Action, Planned},
        trash::{Things, TrashReason},
    },
    ops::{Applied, Order, PutAway, StartOrder},
    store::{ClaimGuard, StaleTokens},
};

impl Sweeper {
    pub(super) async fn apply(
        &self,
        pass: &'static str,
        planned: &Planned,
        look: &Look,
    ) -> Result<Applied, SweepError> {
        let id = planned.action.workspace();
        let put_away = |reason, things: &Things, guard| {
            Order::PutAway(PutAway {
                name: planned.name.clone(),
                reason,
                evidence: planned.evidence.clone(),
                things: things.clone(),
                guard,
                swept_by: Some(pass),
            })
        };
        let order = match &planned.action {
            Action::RevokeStaleTokens { workspace, older_than } => {
                // The age in the UPDATE is measured by the wall clock: one that was set back since the
                // listing would make a new token look old.
                if self.jumped_since(look) {
                    return Ok(Applied::Raced("the clock was set meanwhile".into()));
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
            Action::TrashStray { container, .. } => {
                let things = Things { container: Some(container.clone()), volumes: Vec::new() };
                put_away(TrashReason::Stray, &things, ClaimGuard::NotTheRows(container.id.clone()))
            }
            Action::FinishTrash { entry, .. } => Order::FinishPutAway(*entry),
            Action::FinishRestore { entry, .. } => Order::Restore(*entry),
            Action::DeleteTrash { entry, .. } => {
                Order::Delete { entry: *entry, past: Some(look.asked_at()), swept_by: Some(pass) }
            }
            Action::StopContainer { .. } => Order::Stop { swept: Some((pass, planned.evidence.clone())) },
            Action::StartAnew { .. } => {
                // A start may pull an image for half an hour: nobody waits for it here.
                self.ops.begin(id, Order::Start(StartOrder::default()));
                return Ok(Applied::Done("begun".into()));
            }
            Action::MarkOffline { incarnation, .. } => Order::MarkOffline(*incarnation),
            Action::MarkReady { incarnation, container, .. } => {
                Order::MarkReady(*incarnation, container.clone())
            }
        };
        Ok(self.ops.order(id, order).await?)
    }

    /// Revokes, in one statement that holds every store-side condition.
    pub(super) async fn revoke(
        &self,
        stale: StaleTokens,
        planned: &Planned,
        pass: &'static str,
    ) -> Result<Applied, SweepError> {
        let evidence = planned.evidence.clone();
        let revoked = self.store.revoke_stale_tokens(stale, evidence, pass, self.clock.now()).await?;
        Ok(match revoked.as_slice() {
            [] => Applied::Raced("its token is new, was used, or is gone".into()),
            incarnations => Applied::Done(format!("revoked {}", incarnations.len())),
        })
    }
}
