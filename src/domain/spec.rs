//! What a workspace is made from, and what of it can be rebuilt from a container's labels.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ids::WorkspaceId, naming::WorkspaceName, runtime::Tier};

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
