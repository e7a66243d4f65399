//! Checks the registry: the place of its file, and whether it is recovering.

use super::{
    parts::Doctor,
    verdict::{ok, warn},
};
use crate::{api::doctor::Check, store::StoreResult};

impl Doctor {
    pub(super) async fn location(&self) -> StoreResult<Check> {
        self.0.store.check_location().await?;
        Ok(ok("database", "the open database is the file at its path"))
    }

    pub(super) async fn registry(&self) -> StoreResult<Check> {
        let recovering = self.0.store.registry().await?.and_then(|registry| registry.recovering_since);
        Ok(match recovering {
            None => ok("registry", format!("instance {}", self.0.instance)),
            Some(since) => warn(
                "registry",
                format!(
                    "recovering since {since}: the registry was lost or restored, so ostler starts, stops and removes \
                     nothing automatically"
                ),
                "`ostler adopt --dry-run` lists the differences, `ostler adopt --all` adopts them all",
            ),
        })
    }
}
