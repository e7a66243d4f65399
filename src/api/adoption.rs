//! The adoption of unknown workspaces.

use serde::{Deserialize, Serialize};

/// `POST /adopt`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Adopt {
    /// Names, workspace ids or unique id prefixes of the unknown workspaces to adopt. Ignored if `all` is set.
    pub which: Vec<String>,
    /// Adopt every unknown workspace. Ends the registry's recovery, unless a workspace that has a container could not
    /// be adopted.
    pub all: bool,
    /// Only report what would be done.
    pub dry_run: bool,
    /// Id of the instance whose identity this registry takes over, so that it can adopt the containers and volumes that
    /// carry this id. Works only for an empty registry.
    pub instance: Option<String>,
}

/// Result of an adoption.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdoptOutcome {
    /// The workspaces that were adopted or would be adopted, and those that could not be.
    pub items: Vec<AdoptItem>,
    /// Whether the registry is still recovering: unknown containers and volumes are kept until an operator decides.
    pub recovering: bool,
}

/// One unknown workspace in the result of an adoption.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdoptItem {
    /// Id of the workspace, from the labels.
    pub workspace_id: String,
    /// Name of the workspace, from the labels.
    pub name: String,
    /// The engine's id of the container.
    pub container_id: Option<String>,
    /// Names of the volumes of the workspace.
    pub volumes: Vec<String>,
    /// Whether the workspace was adopted, or would be in a dry run.
    pub adopted: bool,
    /// What was done and what could not be rebuilt.
    pub detail: String,
}
