//! Checks for workspaces that failed or are offline.

use super::{
    parts::Doctor,
    verdict::{ok, warn},
};
use crate::{
    api::doctor::Check,
    domain::status::Status,
    store::{Scope, StoreResult},
};

impl Doctor {
    pub(super) async fn workspaces(&self) -> StoreResult<Check> {
        let rows = self.0.store.workspaces(Scope::Live).await?;
        let failed: Vec<_> =
            rows.iter().filter(|row| matches!(row.status, Status::Failed(_) | Status::Offline)).collect();
        Ok(if failed.is_empty() {
            ok("workspaces", format!("{}, none failed or offline", rows.len()))
        } else {
            let names: Vec<_> = failed.iter().map(|row| format!("{} ({})", row.name, row.status)).collect();
            warn(
                "workspaces",
                names.join(", "),
                "`ostler why NAME` shows the reason, `ostler start NAME` tries again",
            )
        })
    }
}
