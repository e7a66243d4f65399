//! Checks whether agents send fields that are rejected.

use super::{
    parts::Doctor,
    verdict::{ok, warn},
};
use crate::{api::doctor::Check, store::StoreResult};

impl Doctor {
    pub(super) async fn agents(&self) -> StoreResult<Check> {
        let mut refusing = Vec::new();
        for (id, fields) in self.0.store.refusing() {
            if let Some(row) = self.0.store.workspace(id).await? {
                refusing.push(format!("{}: {fields}", row.name));
            }
        }
        refusing.sort();
        Ok(if refusing.is_empty() {
            ok("agents", "all fields that agents send are accepted")
        } else {
            warn(
                "agents",
                format!("agents with rejected fields: {}", refusing.join("; ")),
                "correct the values that the agent sends; until then the last valid values of these fields stay stored",
            )
        })
    }
}
