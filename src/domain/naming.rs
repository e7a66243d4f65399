//! Allowed workspace names, and the names of the objects that ostler creates in the engine.
//!
//! A container or volume belongs to a workspace only if both its labels and its name match. Labels alone are no proof:
//! a user may commit an image from a workspace's container and run a copy of it for debugging. The copy has the same
//! labels, and must never be treated as the workspace's container.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{
    bounds::NAME_MAX_CHARS,
    ids::{IdPrefix, InstanceId, TrashId, WorkspaceId, id_prefix},
    text::is_hidden,
};
use crate::testing::mutation::{Mutation, is};

/// Label with the id of the installation that an object belongs to.
pub const LABEL_INSTANCE: &str = "ostler.instance";
/// Label with the id of the workspace that an object belongs to.
pub const LABEL_WORKSPACE: &str = "ostler.workspace";
/// Label with the [`super::spec::LabelledSpec`] as JSON, so that a lost registry can be rebuilt.
pub const LABEL_SPEC: &str = "ostler.spec";

/// The port on which agents listen in their containers (wire protocol, §8).
pub const AGENT_PORT: u16 = 8000;

/// A workspace's name, unique among workspaces that are not removed.
///
/// Parsing validates new names only. A name from the database or from a label was valid when it was given, and is read
/// without validation. If today's rules forbid such a name, the workspace can still be reached by its id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WorkspaceName(String);

impl WorkspaceName {
    /// Wraps a stored name without validation.
    #[must_use]
    pub fn stored(name: String) -> Self {
        Self(name)
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a text is not a valid workspace name. The error message shows the invalid part.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// The text is empty.
    #[error("the name is empty: expected 1 to {NAME_MAX_CHARS} letters, digits, `-`, `_`, `.` or spaces")]
    Empty,
    /// More than `NAME_MAX_CHARS` characters.
    #[error("the name `{beginning}…` has {chars} characters: at most {NAME_MAX_CHARS} are allowed")]
    TooLong {
        /// The first 20 characters.
        beginning: String,
        /// Number of characters.
        chars: usize,
    },
    /// A character that is not allowed at its position.
    #[error(
        "the name `{name}` has {found:?} at position {position}: allowed are letters, digits, and inside \
         the name also `-`, `_`, `.` and single spaces"
    )]
    Character {
        /// The whole name.
        name: String,
        /// The character.
        found: char,
        /// Its position, counted from 1.
        position: usize,
    },
    /// The name could be read as an id. The workspace would then receive orders that were meant for another workspace.
    #[error(
        "the name `{0}` looks like the beginning of an id (8 or more of the digits 0-9 and a-f). Add a letter \
         other than a to f"
    )]
    Id(String),
}

impl FromStr for WorkspaceName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let chars = text.chars().count();
        if chars == 0 {
            return Err(InvalidName::Empty);
        }
        if chars > NAME_MAX_CHARS {
            return Err(InvalidName::TooLong { beginning: text.chars().take(20).collect(), chars });
        }
        let mut before = ' ';
        for (index, found) in text.chars().enumerate() {
            let edge = index == 0 || index + 1 == chars;
            let allowed = (found.is_alphanumeric() && !is_hidden(found))
                || (!edge && matches!(found, '-' | '_' | '.'))
                || (!edge && found == ' ' && before != ' ');
            if !allowed {
                return Err(InvalidName::Character { name: text.to_owned(), found, position: index + 1 });
            }
            before = found;
        }
        let like_an_id = id_prefix(text).is_some_and(IdPrefix::is_id_prefix);
        if like_an_id && !is(Mutation::NamesBeforeIds) {
            return Err(InvalidName::Id(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for WorkspaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `ostler-<workspace>-<serial>`: a workspace's container. The serial makes the name unique for every attempt to create
/// a container.
#[must_use]
pub fn container_name(workspace: WorkspaceId, serial: u32) -> String {
    format!("ostler-{workspace}-{serial}")
}

/// `ostler-<workspace>-net`: the network of one workspace if `network.isolate` is set.
#[must_use]
pub fn network_name(workspace: WorkspaceId) -> String {
    format!("ostler-{workspace}-net")
}

/// `ostler-trash-<entry>`: a container in the trash.
#[must_use]
pub fn trash_name(trash: TrashId) -> String {
    format!("ostler-trash-{trash}")
}

/// `ostler-<instance>`: the shared network, and the sentinel volume that marks the accepted engine.
#[must_use]
pub fn instance_name(instance: InstanceId) -> String {
    format!("ostler-{instance}")
}

/// One of the two volumes of a workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VolumeKind {
    /// `/configs`: configuration and token. If it is lost, the next start creates it again from the row.
    Config,
    /// `/workspace`: the agent's work. The first start creates this volume. If it is lost, a start creates an empty one
    /// only on an operator's order (`--new-volume`).
    Work,
}

impl VolumeKind {
    /// Both kinds.
    pub const ALL: [Self; 2] = [Self::Config, Self::Work];

    fn suffix(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Work => "work",
        }
    }
}

/// `ostler-<workspace>-config` or `-work`.
#[must_use]
pub fn volume_name(workspace: WorkspaceId, kind: VolumeKind) -> String {
    format!("ostler-{workspace}-{}", kind.suffix())
}

/// The owner of a container, from its labels and name together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The container belongs to this workspace; its name contains this serial.
    Workspace(WorkspaceId, u32),
    /// The container has the name of this trash entry, and belonged to this workspace.
    Trash(TrashId, WorkspaceId),
    /// The container has this instance's label, but no name that ostler gives, such as a copy from a committed image.
    /// ostler must not change it.
    Foreign,
    /// The container does not have this instance's label.
    Unrelated,
}

/// Determines a container's owner from its labels and name.
#[must_use]
pub fn container_owner(instance: InstanceId, name: &str, labels: &BTreeMap<String, String>) -> Owner {
    let Some(workspace) = labelled_workspace(instance, labels) else {
        return if labels.get(LABEL_INSTANCE) == Some(&instance.to_string()) {
            Owner::Foreign
        } else {
            Owner::Unrelated
        };
    };
    if let Some(trash) = name.strip_prefix("ostler-trash-").and_then(|id| id.parse().ok()) {
        return Owner::Trash(trash, workspace);
    }
    name.strip_prefix(&format!("ostler-{workspace}-"))
        .and_then(|serial| serial.parse().ok().filter(|n: &u32| n.to_string() == serial))
        .or_else(|| is(Mutation::LabelsAreEnough).then_some(u32::MAX))
        .map_or(Owner::Foreign, |serial| Owner::Workspace(workspace, serial))
}

/// Whether the labels assign a container to this workspace, regardless of its name.
#[must_use]
pub fn is_labelled_as(
    instance: InstanceId,
    workspace: WorkspaceId,
    labels: &BTreeMap<String, String>,
) -> bool {
    labelled_workspace(instance, labels) == Some(workspace)
}

/// Returns the workspace that a volume belongs to, if the volume's labels and its name match.
#[must_use]
pub fn volume_owner(
    instance: InstanceId,
    name: &str,
    labels: &BTreeMap<String, String>,
) -> Option<(WorkspaceId, VolumeKind)> {
    let workspace = labelled_workspace(instance, labels)?;
    VolumeKind::ALL
        .into_iter()
        .find(|kind| volume_name(workspace, *kind) == name)
        .map(|kind| (workspace, kind))
}

fn labelled_workspace(instance: InstanceId, labels: &BTreeMap<String, String>) -> Option<WorkspaceId> {
    let ours = labels.get(LABEL_INSTANCE)? == &instance.to_string() || is(Mutation::ForgetInstance);
    ours.then_some(())?;
    labels.get(LABEL_WORKSPACE)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    const INSTANCE: InstanceId = InstanceId(Uuid::from_u128(1));
    const WORKSPACE: WorkspaceId = WorkspaceId(Uuid::from_u128(2));

    fn labels(instance: &str, workspace: &str) -> BTreeMap<String, String> {
        [(LABEL_INSTANCE, instance), (LABEL_WORKSPACE, workspace)]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into()
    }

    #[test]
    fn invalid_workspace_name_error_shows_offending_part() {
        for good in ["a", "Marketing Lead", "dev-1", "x_y.z", "équipe"] {
            assert!(good.parse::<WorkspaceName>().is_ok(), "{good}");
        }
        for (bad, part) in [
            ("a/b", "'/' at position 2"),
            ("-a", "'-' at position 1"),
            ("a ", "' ' at position 2"),
            ("a  b", "' ' at position 3"),
            ("a\nb", "'\\n' at position 2"),
        ] {
            let error = bad.parse::<WorkspaceName>().unwrap_err().to_string();
            assert!(error.contains(part), "{bad:?}: {error}");
        }
        assert_eq!("".parse::<WorkspaceName>(), Err(InvalidName::Empty));
        let error = "x".repeat(64).parse::<WorkspaceName>().unwrap_err().to_string();
        assert!(error.contains("64 characters"), "{error}");
    }

    #[test]
    fn workspace_name_that_looks_like_an_id_is_refused() {
        for bad in
            ["6f1c0c5e-0d0f-4c58-9b0e-0a4c1b7e2d11", "6F1C0C5E", "6f1c0c5e-0d0f", "20260102", "deadbeef"]
        {
            let error = bad.parse::<WorkspaceName>().expect_err(bad).to_string();
            assert!(error.contains("looks like the beginning of an id"), "{bad}: {error}");
        }
        for good in ["cafe", "face-0001", "2026-01-02", "deadbeef x", "6f1c0c5e-agent"] {
            assert!(good.parse::<WorkspaceName>().is_ok(), "{good}");
        }
    }

    #[test]
    fn workspace_name_with_invisible_character_is_refused() {
        for bad in ["\u{3164}", "a\u{115f}b", "\u{ffa0}x"] {
            assert!(matches!(bad.parse::<WorkspaceName>(), Err(InvalidName::Character { .. })), "{bad:?}");
        }
    }

    #[test]
    fn container_is_owned_only_if_labels_and_name_match() {
        let ours = labels(&INSTANCE.to_string(), &WORKSPACE.to_string());
        let owner = |name: &str| container_owner(INSTANCE, name, &ours);
        assert_eq!(owner(&container_name(WORKSPACE, 3)), Owner::Workspace(WORKSPACE, 3));
        let trash = TrashId(Uuid::from_u128(9));
        assert_eq!(owner(&trash_name(trash)), Owner::Trash(trash, WORKSPACE));
        let other = WorkspaceId(Uuid::from_u128(3));
        for name in
            ["debug", "", &container_name(other, 1), &format!("ostler-{WORKSPACE}-01"), "ostler-trash-x"]
        {
            assert_eq!(owner(name), Owner::Foreign, "{name}");
        }
        let neighbour = labels(&InstanceId(Uuid::from_u128(7)).to_string(), &WORKSPACE.to_string());
        assert_eq!(container_owner(INSTANCE, &container_name(WORKSPACE, 1), &neighbour), Owner::Unrelated);
    }

    #[test]
    fn volume_is_owned_only_if_labels_and_name_match() {
        let ours = labels(&INSTANCE.to_string(), &WORKSPACE.to_string());
        let name = volume_name(WORKSPACE, VolumeKind::Work);
        assert_eq!(volume_owner(INSTANCE, &name, &ours), Some((WORKSPACE, VolumeKind::Work)));
        assert_eq!(volume_owner(INSTANCE, "work", &ours), None);
        assert_eq!(volume_owner(INSTANCE, &name, &BTreeMap::new()), None);
    }
}
