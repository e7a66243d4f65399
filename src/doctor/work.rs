//! Checks for missing work volumes.

use super::{parts::Doctor, verdict::warn};
use crate::{
    api::doctor::Check,
    domain::{
        naming::{VolumeKind, volume_name},
        status::Status,
    },
    engine::{ErrorKind, trusted},
    store::{Scope, StoreResult},
    sweep::OwnContainers,
};

impl Doctor {
    /// Warns of workspaces that do not run and whose work volume is missing; `None` if there are none.
    ///
    /// Without this check a missing volume shows only at the next start.
    pub(super) async fn lost_work(&self) -> StoreResult<Option<Check>> {
        let mut lost = Vec::new();
        for row in self.0.store.workspaces(Scope::Live).await? {
            // Podman does not delete a volume that a running container mounts.
            let is_up = matches!(row.status, Status::Online | Status::Degraded | Status::Provisioning);
            if is_up || !row.has_work_volume || !row.wants_work_volume() {
                continue;
            }
            let work = volume_name(row.id, VolumeKind::Work);
            let gone = match self.0.engine.inspect_volume(&work).await {
                Ok(seen) => seen.directory_missing,
                Err(error) if error.kind == ErrorKind::Absent => true,
                // Each further call could run into the same deadline. The engine check reports the error.
                Err(_) => return Ok(None),
            };
            if gone {
                lost.push(format!("{} ({work})", row.name));
            }
        }
        // A volume that is missing in another engine is not lost. After the last inspection, verify that the engine is
        // still the accepted one.
        let own = OwnContainers(&self.0.store);
        if lost.is_empty()
            || trusted::snapshot(&*self.0.engine, &*self.0.clock, self.0.instance, &own).await.is_err()
        {
            return Ok(None);
        }
        Ok(Some(warn(
            "work",
            format!("the work volume is missing for {}", lost.join(", ")),
            "restore the volume; an unmounted disk or `podman system prune --volumes` can be the cause. \
             `ostler start NAME --new-volume` starts with an empty volume",
        )))
    }
}
