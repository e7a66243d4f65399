//! Volumes, and the directories in which Podman stores them.

use std::{collections::BTreeMap, path::PathBuf};

use podman_api::opts::{VolumeCreateOpts, VolumeListFilter, VolumeListOpts};

use super::{
    super::{EngineError, EngineResult, ErrorKind, InspectedVolume, VolumeSpec},
    client::{Podman, off_thread},
    convert, directory,
    errors::{Failure, file_error, tolerate},
    names::plain,
    service,
};
use crate::domain::{observed::ObservedVolume, runtime::User};

pub(super) async fn list(
    podman: &Podman,
    key: &str,
    value: Option<&str>,
) -> EngineResult<Vec<ObservedVolume>> {
    let filter = match value {
        Some(value) => VolumeListFilter::LabelKeyVal(key.to_owned(), value.to_owned()),
        None => VolumeListFilter::LabelKey(key.to_owned()),
    };
    let options = VolumeListOpts::builder().filter([filter]).build();
    let volumes = podman.api.volumes();
    let entries = podman.listing("list volumes", || volumes.list(&options)).await?;
    let mut volumes: Vec<_> = entries.into_iter().map(convert::observed_volume).collect();
    volumes.retain(|volume| convert::labelled(&volume.labels, key, value));
    Ok(volumes)
}

pub(super) async fn create(podman: &Podman, spec: &VolumeSpec) -> EngineResult<()> {
    let VolumeSpec { name, labels, owner } = spec;
    let options = VolumeCreateOpts::builder()
        .name(name.as_str())
        .labels(labels)
        // Set by the option, not by a later chown: Podman 5 does not chown a volume that is not empty.
        .options([("o", format!("uid={},gid={}", owner.uid, owner.gid))])
        .build();
    let call = format!("create volume {name}");
    podman.api.volumes().create(&options).await.map(drop).map_err(podman.failed(call))
}

pub(super) async fn inspect(podman: &Podman, name: &str) -> EngineResult<InspectedVolume> {
    let call = format!("inspect volume {name}");
    let (mount_point, labels) = mount_point(podman, &call, name).await?;
    let name = name.to_owned();
    let directory_missing = off_thread(&call, move || directory::is_missing(&name, &mount_point)).await?;
    Ok(InspectedVolume { labels, directory_missing })
}

pub(super) async fn repair(podman: &Podman, name: &str, owner: User) -> EngineResult<()> {
    let call = format!("repair volume {name}");
    if service::describe(podman).await?.rootless {
        // Rootless Podman maps user ids in containers to different ids on the host. The owner can be set only in
        // the user namespace of Podman's user.
        let next = format!("create it with `podman unshare`, owned by {owner}");
        let why = format!("its directory is missing, and rootless Podman cannot restore it: {next}");
        return Err(EngineError::new(ErrorKind::Other, call, why));
    }
    let (mount_point, _) = mount_point(podman, &call, name).await?;
    let name = name.to_owned();
    off_thread(&call, move || directory::make(&name, &mount_point, owner)).await?.map_err(file_error(call))
}

/// Never by force: that would delete the running containers which use the volume.
pub(super) async fn delete(podman: &Podman, name: &str) -> EngineResult<()> {
    let call = format!("delete volume {name}");
    let deleted = podman.api.volumes().get(plain(&call, name)?).delete().await;
    tolerate(deleted.map_err(Failure::from), &[404]).map_err(podman.failed(call))
}

async fn mount_point(
    podman: &Podman,
    call: &str,
    name: &str,
) -> EngineResult<(PathBuf, BTreeMap<String, String>)> {
    let volume = podman.api.volumes().get(plain(call, name)?).inspect().await.map_err(podman.failed(call))?;
    Ok((volume.mountpoint.into(), volume.labels.into_iter().collect()))
}
