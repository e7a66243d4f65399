//! What a workspace is made from, and what of it can be rebuilt from a container's labels.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    ids::WorkspaceId,
    naming::{LABEL_SPEC, WorkspaceName},
    runtime::Tier,
};

/// Whether the container may write to a bound host directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// It may.
    #[default]
    ReadWrite,
    /// It may only read.
    ReadOnly,
}

/// What a workspace's container is made from.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Spec {
    /// The image.
    pub image: String,
    /// The command; empty leaves the image's own.
    pub command: Vec<String>,
    /// Environment of this workspace alone. May hold secrets: never printed, never in labels.
    pub env: BTreeMap<String, String>,
    /// A host directory bound at `/workspace` in place of a work volume.
    pub workspace_dir: Option<String>,
    /// Whether that directory may be written to.
    pub workspace_access: Access,
    /// The text of `/configs/config.yaml`, written where the file is missing.
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

/// Variables that ostler sets in every container. The environment of a workspace may not name them.
pub const OWN_VARIABLES: [&str; 5] =
    ["WORKSPACE_ID", "WORKSPACE_CONFIG_PATH", "PLATFORM_URL", "TIER", "PARENT_ID"];

/// A part of a spec from which no container can be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidSpec(String);

impl Spec {
    /// Checks a spec whose image and command are complete.
    ///
    /// # Errors
    /// When no container can be made from it.
    pub fn check(&self) -> Result<(), InvalidSpec> {
        check_image(&self.image)?;
        check_process(&self.command, self.env.iter(), self.workspace_dir.as_deref())
    }
}

fn check_image(image: &str) -> Result<(), InvalidSpec> {
    if image.is_empty() {
        return Err(InvalidSpec("an image needs a name".into()));
    }
    if image.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(InvalidSpec(format!("the image `{image}` holds white space")));
    }
    Ok(())
}

fn check_process<'a>(
    command: &[String],
    env: impl Iterator<Item = (&'a String, &'a String)>,
    directory: Option<&str>,
) -> Result<(), InvalidSpec> {
    const NUL: &str = "holds a NUL character, which the system cannot pass on";
    if command.iter().any(|word| word.contains('\0')) {
        return Err(InvalidSpec(format!("the command {NUL}")));
    }
    for (key, value) in env {
        if key.is_empty() || key.contains(|c: char| c == '=' || c.is_whitespace() || c.is_control()) {
            return Err(InvalidSpec(format!("{key:?} cannot name an environment variable")));
        }
        if OWN_VARIABLES.contains(&key.as_str()) {
            return Err(InvalidSpec(format!(
                "the variable {key} is set by ostler itself: leave it out. `network.platform_url` changes the address \
                 that agents are told"
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

/// A change of a spec. What is `None` stays.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SpecPatch {
    /// The image.
    pub image: Option<String>,
    /// The command; empty leaves the image's own.
    pub command: Option<Vec<String>>,
    /// Variables to set; `None` removes one. Others stay.
    pub env: BTreeMap<String, Option<String>>,
    /// Another host directory at `/workspace`; empty for none.
    pub workspace_dir: Option<String>,
    /// Whether that directory may be written to.
    pub workspace_access: Option<Access>,
    /// The text of `/configs/config.yaml`, to be written over what is there.
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

/// A change that is valid by itself, and not for this workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// An external workspace has no spec.
    #[error(
        "an external workspace has no container to change: its agent runs elsewhere, and gets its image, command, \
         environment, configuration and directory there"
    )]
    External,
    /// Tier 1 has no `/workspace`.
    #[error("tier 1 has no /workspace: leave out --dir or choose tier 2")]
    Sandbox,
    /// A directory would take the place of a volume.
    #[error(
        "its /workspace is a volume, and a directory in its place would hide the files in it. Create another workspace \
         with --dir, and copy them: `ostler exec OLD -- tar cz -C /workspace . | ostler exec -i NEW -- tar xz -C \
         /workspace`"
    )]
    KeepsVolume,
    /// A volume would take the place of a directory.
    #[error(
        "its /workspace is a directory of this machine, and a volume in its place would begin empty. Create another \
         workspace without --dir, and copy the files"
    )]
    KeepsDirectory,
    /// Only a directory has an access of its own.
    #[error("its /workspace is a volume, which is always writable: only a directory can be read-only")]
    NoDirectory,
}

impl SpecPatch {
    /// Checks what is to be set. What is removed may be anything: an older version may have accepted it.
    ///
    /// # Errors
    /// When no container can be made from it.
    pub fn check(&self) -> Result<(), InvalidSpec> {
        self.image.as_deref().map_or(Ok(()), check_image)?;
        let set = self.env.iter().filter_map(|(key, value)| Some((key, value.as_ref()?)));
        let directory = self.workspace_dir.as_deref().filter(|directory| !directory.is_empty());
        check_process(self.command.as_deref().unwrap_or_default(), set, directory)
    }

    /// The spec after the change. A work volume and a directory never take each other's place: the files in the one
    /// would be missing in the other.
    ///
    /// # Errors
    /// When a workspace with that spec cannot be changed so.
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

/// What [`LabelledSpec`] does not hold: labels are fixed when a container is made, and hold no secrets.
pub const NOT_IN_LABELS: &str = "api tokens, --sleep-after, --max-tasks and --restart-when-wedged, and every change \
                                 (name, parent, image and so on) since its container was made, are lost";

/// The part of a workspace that its container's label keeps: enough to rebuild a lost row, no secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelledSpec {
    /// The name at the time the container was made.
    pub name: WorkspaceName,
    /// The role at that time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// The parent at that time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<WorkspaceId>,
    /// The runtime's name.
    pub runtime: String,
    /// The tier.
    pub tier: Tier,
    /// The image.
    pub image: String,
    /// The command.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// The bound host directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace_dir: Option<String>,
    /// Whether it may be written to.
    #[serde(default)]
    pub workspace_access: Access,
}

impl LabelledSpec {
    /// Reads it from a container's labels; `None` where there is none that can be read.
    #[must_use]
    pub fn of(labels: &BTreeMap<String, String>) -> Option<Self> {
        serde_json::from_str(labels.get(LABEL_SPEC)?).ok()
    }
}
