//! Files in the volumes of containers.

use std::io;

use hyper::Method;

use super::{
    super::{EngineError, EngineResult, ErrorKind, FileToWrite, TOO_LONG},
    archive,
    client::{Podman, off_thread},
    convert, directory,
    errors::{Failure, file_error},
    raw::escape,
};
use crate::{domain::ids::ContainerId, runtime::clock::Clock};

/// `directory` must be the mount point itself. Podman unpacks an archive sent to a parent directory *beneath* the
/// volume's mount, where the container does not see it.
pub(super) async fn write(
    podman: &Podman,
    id: &ContainerId,
    directory: &str,
    file: &FileToWrite,
) -> EngineResult<()> {
    let call = format!("write {directory}/{} into container {}", file.name, id.short());
    let archive = archive::pack(file, podman.clock.now()).map_err(file_error(call.as_str()))?;
    let container = podman.api.containers().get(id.as_str());
    container.copy_to(directory, archive.into()).await.map_err(podman.failed(call))
}

pub(super) async fn read(podman: &Podman, id: &ContainerId, path: &str) -> EngineResult<Vec<u8>> {
    let call = format!("read {path} of container {}", id.short());
    let target = format!("/containers/{id}/archive?path={}", escape(path));
    let unusable = |why: &str| EngineError::new(ErrorKind::Conflict, call.as_str(), why);
    let archive = match podman.raw.send(Method::GET, &target, None, archive::ARCHIVE_MAX_BYTES).await {
        Err(Failure::TooLong(_)) => return Err(unusable(TOO_LONG)),
        other => other.map_err(podman.failed(call.as_str()))?,
    };
    archive::unpack(&archive).map_err(|error| {
        if error.kind() == io::ErrorKind::InvalidData {
            unusable(&error.to_string())
        } else {
            file_error(call.as_str())(error)
        }
    })
}

/// Compares the file in the volume's directory if it can be read on this host. This avoids the service, whose
/// archive of one file takes 0.15 s of a core. If the file is missing or different there, that proves nothing,
/// because the directory could belong to another storage. The service is then asked.
pub(super) async fn holds(
    podman: &Podman,
    id: &ContainerId,
    path: &str,
    content: &[u8],
) -> EngineResult<bool> {
    if is_seen_to_hold(podman, id, path, content).await {
        return Ok(true);
    }
    Ok(read(podman, id, path).await? == content)
}

/// Whether a file of a volume is visible on this host and has this content. `false` proves nothing.
async fn is_seen_to_hold(podman: &Podman, id: &ContainerId, path: &str, content: &[u8]) -> bool {
    let Some((target, file)) = path.rsplit_once('/') else { return false };
    let inspection = podman.raw.json(Method::GET, &format!("/libpod/containers/{id}/json"), None).await;
    let Some((volume, mount_point)) =
        inspection.ok().and_then(|inspection| convert::volume_at(inspection, target))
    else {
        return false;
    };
    let (file, content) = (file.to_owned(), content.to_owned());
    let compare = move || {
        let found = directory::read(&volume, &mount_point, &file, content.len());
        found.is_ok_and(|found| found == content)
    };
    off_thread("read a file of a volume", compare).await.unwrap_or(false)
}
