//! The actions of sweep passes, and their properties.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::{
    domain::{
        ids::{ContainerId, Incarnation, TrashId, WorkspaceId},
        time::Timestamp,
        trash::{NamedContainer, TrashContents},
    },
    testing::mutation::{Mutation, is},
};

/// One change that a pass plans.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Action {
    /// Move the remaining containers and volumes of a removed workspace to the trash.
    TrashRemoved {
        /// The removed workspace.
        workspace: WorkspaceId,
        /// The container and volumes to move.
        #[serde(alias = "things")]
        contents: TrashContents,
    },
    /// Move a container or volumes that have ostler's labels, but no row, to the trash.
    TrashUnknown {
        /// Workspace named by the labels.
        workspace: WorkspaceId,
        /// The container and volumes to move.
        #[serde(alias = "things")]
        contents: TrashContents,
    },
    /// Move a second container of a live workspace to the trash, without volumes.
    TrashStray {
        /// The live workspace.
        workspace: WorkspaceId,
        /// The container to move.
        container: NamedContainer,
        /// True if it never ran: an interrupted start left it, and it contains no work.
        #[serde(default)]
        never_ran: bool,
    },
    /// Complete a move to the trash: stop, rename, mark as kept.
    FinishTrash {
        /// Workspace that owned the container and volumes.
        workspace: WorkspaceId,
        /// The trash entry: in state `claimed`, or in state `kept` with a container that runs or does not have its
        /// trash name.
        entry: TrashId,
    },
    /// Finish an interrupted restore.
    FinishRestore {
        /// Workspace that owns the container and volumes.
        workspace: WorkspaceId,
        /// The trash entry in state `restoring`.
        entry: TrashId,
    },
    /// Delete the container and volumes of a workspace that was removed with `--purge`.
    Purge {
        /// The removed workspace.
        workspace: WorkspaceId,
    },
    /// Delete a trash entry permanently.
    DeleteTrash {
        /// Workspace that owned the container and volumes.
        workspace: WorkspaceId,
        /// The trash entry.
        entry: TrashId,
        /// True if an operator ordered the move to the trash, or if the deletion has already begun.
        ordered: bool,
    },
    /// Revoke the instance tokens of a workspace without a container.
    RevokeStaleTokens {
        /// Workspace that owns the tokens.
        workspace: WorkspaceId,
        /// Tokens created or used at or after this time are not revoked.
        older_than: Timestamp,
    },
    /// Stop the container of a workspace whose status forbids running.
    StopContainer {
        /// The workspace.
        workspace: WorkspaceId,
        /// The container to stop.
        container: ContainerId,
    },
    /// Repeat a start that a crash interrupted.
    #[serde(alias = "start_anew")]
    StartAgain {
        /// The workspace.
        workspace: WorkspaceId,
    },
    /// Set `offline` because the container is gone or has exited.
    MarkOffline {
        /// The workspace.
        workspace: WorkspaceId,
        /// Guard: the row still has this incarnation.
        incarnation: Incarnation,
        /// Guard: the row still has this container.
        container: Option<ContainerId>,
    },
    /// Record that an agent missed its heartbeats for too long.
    MarkSilent {
        /// The workspace.
        workspace: WorkspaceId,
        /// Guard: the row still has this incarnation.
        incarnation: Incarnation,
        /// Guard: no heartbeat was received at or after this time.
        #[serde(alias = "heard_before")]
        heartbeat_before: Timestamp,
        /// True for an external workspace.
        external: bool,
    },
    /// Restart a container that runs and misses heartbeats, or is busy without progress.
    #[serde(alias = "restart_unwell")]
    RestartDegraded {
        /// The workspace.
        workspace: WorkspaceId,
        /// Guard: no heartbeat was received at or after this time.
        #[serde(alias = "heard_before")]
        heartbeat_before: Timestamp,
    },
    /// Set `failed(provision_timeout)` because a start took too long.
    TimeOutProvisioning {
        /// The workspace.
        workspace: WorkspaceId,
        /// Guard: the row still has this incarnation.
        incarnation: Incarnation,
        /// Guard: the row has been provisioning since this time.
        since: Timestamp,
        /// Limit of its runtime, in seconds.
        limit_seconds: u64,
    },
    /// Begin to hibernate an idle workspace.
    Hibernate {
        /// The workspace.
        workspace: WorkspaceId,
        /// Guard: no activity after this time.
        idle_since: Timestamp,
    },
    /// Stop the container of a hibernating workspace and verify that it is stopped.
    FinishHibernation {
        /// The workspace.
        workspace: WorkspaceId,
    },
    /// Flag a workspace that is busy without progress.
    FlagWedged {
        /// The workspace.
        workspace: WorkspaceId,
        /// Guard: no sign of progress after this time.
        quiet_since: Timestamp,
    },
    /// Restart after an exit, once the backoff has passed.
    RestartDue {
        /// The workspace.
        workspace: WorkspaceId,
    },
    /// Set `online` because the container has run long enough.
    MarkReady {
        /// The workspace.
        workspace: WorkspaceId,
        /// Guard: the row still has this incarnation.
        incarnation: Incarnation,
        /// Guard: the row's container is still this one, which runs.
        container: ContainerId,
    },
}

/// How an action affects containers, volumes and tokens.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// Only records an observation in the row.
    Records,
    /// Starts, stops or restores something, or finishes a move to the trash that has begun.
    Acts,
    /// Moves something to the trash, deletes it or revokes it.
    Destroys,
}

/// The properties of an action that sweeps and output need.
struct Description {
    workspace: WorkspaceId,
    effect: Effect,
    /// Whether it counts against the breaker.
    counted: bool,
    /// Whether it was planned because some time has elapsed. If a clock has jumped since, it must not be applied.
    timed: bool,
    /// First part of the key that identifies the same action in another run. `None` if the action's fields identify it.
    /// Needed if some of the fields are times that change with every run.
    key: Option<&'static str>,
    /// Phrase for the user, such as `restart it`.
    text: Cow<'static, str>,
}

impl Description {
    fn of(workspace: WorkspaceId, effect: Effect, text: impl Into<Cow<'static, str>>) -> Self {
        Self {
            workspace,
            effect,
            counted: effect == Effect::Destroys,
            timed: false,
            key: None,
            text: text.into(),
        }
    }

    fn counted(self, counted: bool) -> Self {
        Self { counted, ..self }
    }

    fn timed(self) -> Self {
        Self { timed: true, ..self }
    }

    fn key(self, key: &'static str) -> Self {
        Self { key: Some(key), ..self }
    }
}

impl Action {
    /// Describes each variant. No other code distinguishes the variants by these properties.
    fn description(&self) -> Description {
        use Effect::{Acts, Destroys, Records};
        match self {
            // Not counted: an operator removed the workspace.
            Self::TrashRemoved { workspace, contents } => {
                Description::of(*workspace, Destroys, move_to_trash(contents)).counted(false)
            }
            Self::TrashUnknown { workspace, contents } => {
                Description::of(*workspace, Destroys, move_to_trash(contents))
            }
            Self::TrashStray { workspace, container, never_ran } => {
                let text = format!("move the second container {} to the trash", container.id.short());
                Description::of(*workspace, Destroys, text).counted(!never_ran)
            }
            Self::FinishTrash { workspace, entry } => {
                Description::of(*workspace, Acts, format!("finish moving entry {entry} to the trash"))
            }
            Self::FinishRestore { workspace, entry } => {
                Description::of(*workspace, Acts, format!("finish restoring entry {entry}"))
            }
            Self::Purge { workspace } => {
                Description::of(*workspace, Destroys, "permanently delete its container and volumes")
                    .counted(false)
            }
            Self::DeleteTrash { workspace, entry, ordered } => {
                Description::of(*workspace, Destroys, format!("permanently delete trash entry {entry}"))
                    .counted(!ordered)
            }
            Self::RevokeStaleTokens { workspace, .. } => {
                Description::of(*workspace, Destroys, "revoke its stale instance tokens")
                    .timed()
                    .key("revoke tokens of")
            }
            // Not destructive: its row no longer permits the container to run.
            Self::StopContainer { workspace, container } => {
                let effect = if is(Mutation::StopsAreDestructive) { Destroys } else { Acts };
                Description::of(*workspace, effect, format!("stop container {}", container.short()))
            }
            Self::StartAgain { workspace } => {
                Description::of(*workspace, Acts, "repeat its interrupted start")
            }
            Self::MarkOffline { workspace, .. } => Description::of(*workspace, Records, "mark it offline"),
            Self::MarkSilent { workspace, external: true, .. } => {
                Description::of(*workspace, Records, "mark it awaiting_agent").timed()
            }
            Self::MarkSilent { workspace, external: false, .. } => {
                Description::of(*workspace, Records, "mark it degraded").timed()
            }
            // Counted: the agent may be healthy and only unable to reach the daemon, and a restart then destroys its
            // work. A single network fault can cut off many agents at once, and must not restart all of them.
            Self::RestartDegraded { workspace, .. } => {
                let counted = !is(Mutation::SilenceIsFree);
                Description::of(*workspace, Acts, "restart it").counted(counted).timed().key("restart")
            }
            Self::TimeOutProvisioning { workspace, .. } => {
                Description::of(*workspace, Records, "mark its start as timed out").timed()
            }
            Self::Hibernate { workspace, .. } => {
                Description::of(*workspace, Acts, "hibernate it").timed().key("hibernate")
            }
            Self::FinishHibernation { workspace } => {
                Description::of(*workspace, Acts, "finish its hibernation")
            }
            Self::FlagWedged { workspace, .. } => {
                Description::of(*workspace, Records, "flag it as stalled").timed()
            }
            Self::RestartDue { workspace } => Description::of(*workspace, Acts, "restart it"),
            Self::MarkReady { workspace, .. } => Description::of(*workspace, Records, "mark it online"),
        }
    }

    /// The workspace that the action applies to.
    #[must_use]
    pub fn workspace(&self) -> WorkspaceId {
        self.description().workspace
    }

    /// Whether the action moves something to the trash, deletes it or revokes it. Each run may apply only a few such
    /// actions. Stopping a container is not destructive, because the row does not allow it to run. Finishing a move to
    /// the trash is not destructive either, because the decision was made when the move began.
    #[must_use]
    pub fn is_destructive(&self) -> bool {
        self.description().effect == Effect::Destroys
    }

    /// Whether the action counts against the breaker: it could destroy work, and no operator ordered it for this
    /// workspace.
    #[must_use]
    pub fn counts_against_breaker(&self) -> bool {
        self.description().counted
    }

    /// Whether it waits while the registry is recovering: every action that starts, stops, deletes or revokes
    /// something. Actions that only record an observation do not wait.
    #[must_use]
    pub fn waits_for_recovery(&self) -> bool {
        self.description().effect != Effect::Records
    }

    /// Whether it was planned because some time has elapsed. If a clock has jumped since, it must not be applied.
    #[must_use]
    pub fn is_timed(&self) -> bool {
        self.description().timed
    }

    /// Key that identifies the same action in another run, for approvals. It does not contain times that change with
    /// every run.
    #[must_use]
    pub fn key(&self) -> String {
        match self.description() {
            Description { key: Some(key), workspace, .. } => format!("{key} {workspace}"),
            Description { key: None, .. } => serde_json::to_string(self).unwrap_or_default(),
        }
    }

    /// Describes the action for the user, as a phrase such as `restart it`.
    #[must_use]
    pub fn describe(&self) -> String {
        self.description().text.into_owned()
    }
}

fn move_to_trash(contents: &TrashContents) -> String {
    format!("move {} to the trash", describe_contents(contents))
}

pub(crate) fn describe_contents(contents: &TrashContents) -> String {
    let volumes = match contents.volumes.len() {
        0 => None,
        1 => Some("1 volume".to_owned()),
        n => Some(format!("{n} volumes")),
    };
    let container = contents.container.as_ref().map(|c| format!("container {}", c.id.short()));
    let parts: Vec<_> = container.into_iter().chain(volumes).collect();
    if parts.is_empty() { "nothing".into() } else { parts.join(" and ") }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn actions_stored_by_older_versions_are_read() {
        let workspace = WorkspaceId(Uuid::from_u128(1));
        let contents = TrashContents { container: None, volumes: vec!["v".into()] };
        for (older, action) in [
            ("trash_removed", Action::TrashRemoved { workspace, contents: contents.clone() }),
            ("trash_unknown", Action::TrashUnknown { workspace, contents }),
            ("start_anew", Action::StartAgain { workspace }),
            ("restart_unwell", Action::RestartDegraded { workspace, heartbeat_before: Timestamp(7) }),
        ] {
            let mut stored = serde_json::to_value(&action).unwrap();
            let fields = stored.as_object_mut().unwrap();
            fields.insert("do".into(), older.into());
            for (new, old) in [("contents", "things"), ("heartbeat_before", "heard_before")] {
                if let Some(value) = fields.remove(new) {
                    fields.insert(old.into(), value);
                }
            }
            assert_eq!(serde_json::from_value::<Action>(stored).unwrap(), action, "{older}");
        }
    }
}
