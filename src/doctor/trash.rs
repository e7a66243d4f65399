//! Checks the number and size of the entries in the trash.

use super::{parts::Doctor, verdict::ok};
use crate::{api::doctor::Check, domain::trash::TrashState, store::StoreResult};

impl Doctor {
    pub(super) async fn trash(&self) -> StoreResult<Check> {
        let entries = self.0.store.trash().await?;
        let open = entries.iter().filter(|entry| entry.state != TrashState::Kept).count();
        let found = match entries.len() {
            1 => format!("1 entry, {open} in progress"),
            count => format!("{count} entries, {open} in progress"),
        };
        if entries.is_empty() {
            return Ok(ok("trash", found));
        }
        Ok(match self.0.engine.disk_usage().await {
            Ok(usage) => {
                let bytes: u64 = entries.iter().map(|entry| usage.of(&entry.contents)).sum();
                ok("trash", format!("{found}, {} MiB of disk", bytes.div_ceil(1 << 20)))
            }
            Err(_) => ok("trash", format!("{found}; the engine does not report their disk use")),
        })
    }
}
