//! Which changes of a spec a workspace accepts.

use std::fmt;

use super::{Access, Part, SpecPatch, WorkspaceSpec};
use crate::domain::{runtime::Tier, workspace::Kind};

impl fmt::Debug for SpecPatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpecPatch")
            .field("role", &self.role)
            .field("runtime", &self.runtime)
            .field("tier", &self.tier)
            .field("parent", &self.parent)
            .field("image", &self.image)
            .field("env", &self.env.keys().collect::<Vec<_>>())
            .field("workspace_dir", &self.workspace_dir)
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

/// Why a valid change cannot be applied to this workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// External workspaces have no spec.
    #[error(
        "an external workspace has no container to change: its image, command, environment, configuration and \
         directory are set where its agent runs"
    )]
    External,
    /// Tier 1 has no `/workspace`.
    #[error("tier 1 has no /workspace: leave out --dir or choose tier 2")]
    Sandbox,
    /// The change would replace a work volume by a host directory.
    #[error(
        "its /workspace is a volume, and a directory would hide the files in it. Create another workspace with \
         --dir, and copy the files: `ostler exec OLD -- tar cz -C /workspace . | ostler exec -i NEW -- tar xz -C \
         /workspace`"
    )]
    KeepsVolume,
    /// The change would replace a host directory by a work volume.
    #[error(
        "its /workspace is a directory of this host, and a volume in its place would be empty. Create another \
         workspace without --dir, and copy the files"
    )]
    KeepsDirectory,
    /// The change would make a work volume read-only. Only a host directory can be.
    #[error("its /workspace is a volume, which is always writable: only a directory can be read-only")]
    NoDirectory,
}

impl SpecPatch {
    /// The spec after the change, if a workspace of this kind with the spec `old` accepts it. A change is refused if it
    /// would replace a work volume by a host directory or the reverse, because the workspace's files would then be
    /// missing in `/workspace`.
    ///
    /// # Errors
    /// If the change does not fit this workspace.
    pub fn accepted_by(self, kind: Kind, old: &WorkspaceSpec) -> Result<WorkspaceSpec, Unfit> {
        if kind == Kind::External && self.sets(Part::Container) {
            return Err(Unfit::External);
        }
        let given = self.workspace_dir.as_deref();
        let given = given.filter(|directory| !directory.is_empty() || old.workspace_dir.is_some());
        match (&old.workspace_dir, given, self.workspace_access) {
            (None, Some(_), _) => return Err(Unfit::KeepsVolume),
            (Some(_), Some(""), _) => return Err(Unfit::KeepsDirectory),
            (None, None, Some(Access::ReadOnly)) => return Err(Unfit::NoDirectory),
            (Some(_), ..) | (None, None, _) => {}
        }
        let sets_place = self.tier.is_some() || self.workspace_dir.is_some();
        let new = self.applied_to(old);
        if sets_place && new.tier == Tier::SANDBOX && new.workspace_dir.is_some() {
            return Err(Unfit::Sandbox);
        }
        Ok(new)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn change_sets_and_clears_fields() {
        let old = WorkspaceSpec {
            role: Some("digs".into()),
            env: [("A", "1"), ("B", "1")].map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            hibernation_idle_minutes: Some(5),
            config: Some("old".into()),
            restart_when_wedged: true,
            ..WorkspaceSpec::default()
        };
        assert_eq!(SpecPatch::default().applied_to(&old), old);
        let patch = SpecPatch {
            role: Some(String::new()),
            env: BTreeMap::from([("A".to_owned(), None), ("C".to_owned(), Some(String::new()))]),
            hibernation_idle_minutes: Some(0),
            config: Some("".into()),
            ..SpecPatch::default()
        };
        let new = patch.applied_to(&old);
        assert_eq!((new.role, new.hibernation_idle_minutes, new.config), (None, None, Some(String::new())));
        assert_eq!(
            new.env.into_iter().collect::<Vec<_>>(),
            [("B", "1"), ("C", "")].map(|(k, v)| (k.into(), v.into()))
        );
        assert!(new.restart_when_wedged, "an absent field was changed");
    }

    #[test]
    fn patch_sets_the_part_of_its_fields() {
        let of_container = SpecPatch { command: Some(Vec::new()), ..SpecPatch::default() };
        let of_workspace = SpecPatch { role: Some(String::new()), ..SpecPatch::default() };
        let sets = |patch: &SpecPatch| (patch.sets(Part::Container), patch.sets(Part::Workspace));
        assert_eq!(
            (sets(&SpecPatch::default()), sets(&of_container), sets(&of_workspace)),
            ((false, false), (true, false), (false, true))
        );
    }
}
