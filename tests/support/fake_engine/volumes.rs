//! What the calls for volumes, and for the files in them, do to the fake engine.

use ostler::{
    domain::{ids::ContainerId, observed::ObservedVolume},
    engine::{EngineError, EngineResult, ErrorKind, FileToWrite, InspectedVolume, MountSource, VolumeSpec},
};

use super::state::{FakeContainer, FakeVolume, State, absent, conflict, labelled, volumes_of};

impl State {
    pub(super) fn list_volumes(&self, key: &str, value: Option<&str>) -> Vec<ObservedVolume> {
        let listed = self.volumes.iter().filter(|(_, v)| labelled(&v.labels, key, value));
        listed
            .map(|(name, volume)| ObservedVolume { name: name.clone(), labels: volume.labels.clone() })
            .collect()
    }

    pub(super) fn create_volume(&mut self, spec: VolumeSpec) -> EngineResult<()> {
        if self.volumes.contains_key(&spec.name) {
            return Err(conflict("create volume", "volume already exists"));
        }
        self.volumes.insert(spec.name, FakeVolume { labels: spec.labels, ..FakeVolume::default() });
        Ok(())
    }

    pub(super) fn inspect_volume(&self, name: &str) -> EngineResult<InspectedVolume> {
        let volume = self.volumes.get(name).ok_or_else(|| absent("inspect volume", name))?;
        Ok(InspectedVolume { labels: volume.labels.clone(), directory_missing: volume.directory_missing })
    }

    pub(super) fn repair_volume(&mut self, name: &str) -> EngineResult<()> {
        let volume = self.volumes.get_mut(name).ok_or_else(|| absent("repair volume", name))?;
        volume.directory_missing = false;
        Ok(())
    }

    pub(super) fn delete_volume(&mut self, name: &str) -> EngineResult<()> {
        let mounts =
            |container: &FakeContainer| volumes_of(&container.spec).iter().any(|volume| volume == name);
        if self.containers.values().any(mounts) {
            return Err(conflict("delete volume", "volume is being used"));
        }
        self.volumes.remove(name);
        Ok(())
    }

    /// Writes a file. If `pretended`, only its directory has to exist.
    pub(super) fn write_file(
        &mut self,
        id: &ContainerId,
        directory: &str,
        file: FileToWrite,
        pretended: bool,
    ) -> EngineResult<()> {
        let volume = self.volume_at(id, directory)?;
        if !pretended {
            volume.files.insert(file.name, file.content);
        }
        Ok(())
    }

    pub(super) fn read_file(&mut self, id: &ContainerId, path: &str) -> EngineResult<Vec<u8>> {
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        let volume = self.volume_at(id, directory)?;
        volume.files.get(name).cloned().ok_or_else(|| absent("read file", path))
    }

    fn volume_at(&mut self, id: &ContainerId, directory: &str) -> EngineResult<&mut FakeVolume> {
        let container = self.containers.get(id).ok_or_else(|| absent("use container", id.as_str()))?;
        let name = container.spec.mounts.iter().find_map(|mount| match &mount.source {
            MountSource::Volume(name) if mount.target == directory => Some(name.clone()),
            MountSource::Volume(_) | MountSource::HostDirectory(_) | MountSource::Tmpfs => None,
        });
        let volume = name.and_then(|name| self.volumes.get_mut(&name));
        match volume {
            Some(volume) if !volume.directory_missing => Ok(volume),
            _ => Err(EngineError::new(
                ErrorKind::Other,
                "reach volume",
                "the directory of the volume does not exist",
            )),
        }
    }
}
