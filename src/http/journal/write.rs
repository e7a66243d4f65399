//! Collects rows, and writes them together.

use std::{sync::PoisonError, time::Duration};

use super::rows::{Gathered, Row};
use crate::{domain::ids::ActivityId, http::state::Api};

/// How long rows are collected before they are written.
const GATHER: Duration = Duration::from_millis(250);

/// Most rows in memory. Beyond this, which happens only when the store cannot write, new rows are dropped.
const GATHERED_MAX: usize = 2048;

impl Api {
    pub(super) fn gather(&self, row: Row) {
        let schedule = {
            let mut gathered = self.0.journal.gathered.lock().unwrap_or_else(PoisonError::into_inner);
            if gathered.rows.len() >= GATHERED_MAX {
                gathered.dropped += 1;
                return;
            }
            gathered.rows.push(row);
            !std::mem::replace(&mut gathered.scheduled, true)
        };
        if schedule {
            let api = self.clone();
            self.0.spawn.spawn(Box::pin(async move {
                api.0.clock.sleep(GATHER).await;
                api.write_gathered().await;
            }));
        }
    }

    /// Writes the collected rows.
    pub(in crate::http) async fn write_gathered(&self) {
        let _writing = self.0.journal.writing.lock().await;
        let Gathered { rows, dropped, .. } = {
            let mut gathered = self.0.journal.gathered.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *gathered)
        };
        if dropped > 0 {
            tracing::warn!(rows = dropped, "activity rows dropped: the store is too slow");
        }
        if rows.is_empty() {
            return;
        }
        let count = rows.len();
        let fresh = || ActivityId(self.0.entropy.uuid());
        let rows = rows.into_iter().map(|row| row.complete(fresh())).collect();
        if let Err(error) = self.0.store.log_activity(rows).await {
            tracing::warn!(%error, rows = count, "could not write activity rows");
        }
    }
}
