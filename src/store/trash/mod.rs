//! The trash: a workspace's container and volumes are claimed, kept, and then restored or deleted.

mod claim;
mod delete;
mod read;
mod restore;

use rusqlite::params;

use super::{Store, StoreResult, lane::Tx, row};
use crate::domain::{ids::TrashId, trash::TrashState};

pub(super) use claim::insert_claim;
pub use claim::{ClaimGuard, NewClaim};
pub use delete::DeleteGuard;
pub(super) use restore::{begin_restore, entry_being_restored};

/// Changes the state of an entry if it is one of `from`. The caller emits the event.
pub(super) fn move_state(tx: &Tx<'_>, id: TrashId, from: &[TrashState], to: TrashState) -> StoreResult<bool> {
    let from: Vec<_> = from.iter().map(|state| state.as_str()).collect();
    let moved = tx
        .sql
        .prepare_cached(
            "UPDATE trash SET state = ?2 WHERE id = ?1 AND state IN (SELECT value FROM rarray(?3))",
        )?
        .execute(params![id, to.as_str(), row::texts(&from)])?;
    Ok(moved > 0)
}

impl Store {
    /// Removes an item that no longer exists from an entry.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn drop_from_trash(&self, entry: TrashId, item: String) -> StoreResult<()> {
        self.lanes
            .write("drop from trash", move |tx| {
                tx.sql
                    .prepare_cached("DELETE FROM trash_items WHERE trash = ?1 AND item = ?2")?
                    .execute(params![entry, item])?;
                Ok(())
            })
            .await
    }

    /// Cancels the deletion or restore of an entry: sets its state back to `kept`.
    ///
    /// Used if an object to be deleted is in use, or if a restore has no workspace to restore to.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn cancel_transition(&self, entry: TrashId) -> StoreResult<()> {
        self.lanes
            .write("cancel transition", move |tx| {
                let from = [TrashState::Deleting, TrashState::Restoring];
                move_state(tx, entry, &from, TrashState::Kept).map(drop)
            })
            .await
    }
}
