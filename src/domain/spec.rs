//! The inputs from which a workspace's container is created, and the part of them that is stored in the container's
//! labels.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    ids::WorkspaceId,
    naming::{LABEL_SPEC, WorkspaceName},
    runtime::Tier,
};

/// Access of the container to a bound host directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Reads and writes.
    #[default]
    ReadWrite,
    /// Reads only.
    ReadOnly,
}

/// The inputs of a workspace's container.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Spec {
    /// Image reference.
    pub image: String,
    /// Command; if empty, the image's own command.
    pub command: Vec<String>,
    /// Environment variables of this workspace, in addition to those of its runtime. They may contain secrets, so they
    /// are never printed and never stored in labels.
    pub env: BTreeMap<String, String>,
    /// Host directory bound at `/workspace` instead of a work volume.
    pub workspace_dir: Option<String>,
    /// Access to that directory.
    pub workspace_access: Access,
    /// Content of `/configs/config.yaml`, written if the file does not exist.
    pub config: Option<String>,
}

impl std::fmt::Debug for Spec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spec")
            .field("image", &self.image)
            .field("command", &self.command)
            .field("env", &self.env.keys().collect::<Vec<_>>())
            .field("workspace_dir", &self.workspace_dir)
            .finish_non_exhaustive()
    }
}

/// Variables that ostler sets in every container. A workspace's environment may not contain them.
pub const OWN_VARIABLES: [&str; 5] =
    ["WORKSPACE_ID", "WORKSPACE_CONFIG_PATH", "PLATFORM_URL", "TIER", "PARENT_ID"];

/// Why no container can be created from a spec.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidSpec(String);

impl Spec {
    /// Checks a spec with a complete image and command.
    ///
    /// # Errors
    /// If no container can be created from it.
    pub fn check(&self) -> Result<(), InvalidSpec> {
        check_image(&self.image)?;
        check_process(&self.command, self.env.iter(), self.workspace_dir.as_deref())
    }
}

fn check_image(image: &str) -> Result<(), InvalidSpec> {
    if image.is_empty() {
        return Err(InvalidSpec("the image name is empty".into()));
    }
    if image.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(InvalidSpec(format!(
            "the image name `{image}` contains white space or control characters"
        )));
    }
    Ok(())
}

fn check_process<'a>(
    command: &[String],
    env: impl Iterator<Item = (&'a String, &'a String)>,
    directory: Option<&str>,
) -> Result<(), InvalidSpec> {
    const NUL: &str = "contains a NUL character, which cannot be passed to a process";
    if command.iter().any(|word| word.contains('\0')) {
        return Err(InvalidSpec(format!("the command {NUL}")));
    }
    for (key, value) in env {
        if key.is_empty() || key.contains(|c: char| c == '=' || c.is_whitespace() || c.is_control()) {
            return Err(InvalidSpec(format!("{key:?} is not a valid name of an environment variable")));
        }
        if OWN_VARIABLES.contains(&key.as_str()) {
            return Err(InvalidSpec(format!(
                "the variable {key} is set by ostler: leave it out. To change the address that agents use, set \
                 `network.platform_url`"
            )));
        }
        if value.contains('\0') {
            return Err(InvalidSpec(format!("the value of {key} {NUL}")));
        }
    }
    let Some(directory) = directory else { return Ok(()) };
    if !directory.starts_with('/') {
        return Err(InvalidSpec(format!("the directory `{directory}` is not an absolute path")));
    }
    if directory.contains('\0') {
        return Err(InvalidSpec(format!("the directory {NUL}")));
    }
    Ok(())
}

/// A change of a spec. Fields that are `None` are unchanged.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SpecPatch {
    /// New image.
    pub image: Option<String>,
    /// New command; if empty, the image's own command.
    pub command: Option<Vec<String>>,
    /// Variables to set; with the value `None`, the variable is removed. All other variables are unchanged.
    pub env: BTreeMap<String, Option<String>>,
    /// New host directory for `/workspace`; an empty text means no directory.
    pub workspace_dir: Option<String>,
    /// New access to the host directory.
    pub workspace_access: Option<Access>,
    /// New content of `/configs/config.yaml`; overwrites the file.
    pub config: Option<String>,
}

impl std::fmt::Debug for SpecPatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SpecPatch")
            .field("image", &self.image)
            .field("env", &self.env.keys().collect::<Vec<_>>())
            .field("workspace_dir", &self.workspace_dir)
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
    /// Checks the new values. The names of variables to be removed are not checked, because an older version may have
    /// accepted a name that is invalid today.
    ///
    /// # Errors
    /// If no container can be created from it.
    pub fn check(&self) -> Result<(), InvalidSpec> {
        self.image.as_deref().map_or(Ok(()), check_image)?;
        let set = self.env.iter().filter_map(|(key, value)| Some((key, value.as_ref()?)));
        let directory = self.workspace_dir.as_deref().filter(|directory| !directory.is_empty());
        check_process(self.command.as_deref().unwrap_or_default(), set, directory)
    }

    /// Applies the change. It is refused if it would replace a work volume by a host directory or the reverse, because
    /// the workspace's files would then be missing in `/workspace`.
    ///
    /// # Errors
    /// If the change does not fit this workspace.
    pub fn apply(self, old: &Spec) -> Result<Spec, Unfit> {
        let Self { image, command, env, workspace_dir, workspace_access, config } = self;
        let given = workspace_dir.filter(|directory| !directory.is_empty() || old.workspace_dir.is_some());
        match (&old.workspace_dir, &given, workspace_access) {
            (None, Some(_), _) => return Err(Unfit::KeepsVolume),
            (Some(_), Some(directory), _) if directory.is_empty() => return Err(Unfit::KeepsDirectory),
            (None, None, Some(Access::ReadOnly)) => return Err(Unfit::NoDirectory),
            (Some(_), ..) | (None, None, _) => {}
        }
        let mut variables = old.env.clone();
        for (key, value) in env {
            match value {
                Some(value) => variables.insert(key, value),
                None => variables.remove(&key),
            };
        }
        Ok(Spec {
            image: image.unwrap_or_else(|| old.image.clone()),
            command: command.unwrap_or_else(|| old.command.clone()),
            env: variables,
            workspace_dir: given.or_else(|| old.workspace_dir.clone()),
            workspace_access: workspace_access.unwrap_or(old.workspace_access),
            config: config.or_else(|| old.config.clone()),
        })
    }
}

/// Text for the user about everything that a row rebuilt from a [`LabelledSpec`] lacks. The labels of a container
/// cannot be changed after its creation, and contain no secrets.
pub const NOT_IN_LABELS: &str = "api tokens, --hibernate-after, --max-tasks and --restart-when-wedged, and every change \
                                 (name, parent, image and so on) since its container was created, are lost";

/// The part of a workspace that is stored in its container's label. It suffices to rebuild a lost row, and contains no
/// secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelledSpec {
    /// Name at the time when the container was created.
    pub name: WorkspaceName,
    /// Role at the time when the container was created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Parent at the time when the container was created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<WorkspaceId>,
    /// Name of the runtime.
    pub runtime: String,
    /// Resource tier.
    pub tier: Tier,
    /// Image reference.
    pub image: String,
    /// Command; if empty, the image's own command.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Bound host directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace_dir: Option<String>,
    /// Access to that directory.
    #[serde(default)]
    pub workspace_access: Access,
}

impl LabelledSpec {
    /// Parses a container's label; `None` if it is missing or invalid.
    #[must_use]
    pub fn of(labels: &BTreeMap<String, String>) -> Option<Self> {
        serde_json::from_str(labels.get(LABEL_SPEC)?).ok()
    }
}
