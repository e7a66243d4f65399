//! Connections to published ports, which do not pass through ostler.

use std::{collections::BTreeSet, time::Duration};

use super::Ops;
use crate::{
    domain::{
        ids::{ContainerId, WorkspaceId},
        naming::AGENT_PORT,
        runtime::Readiness,
        status::Status,
        workspace::Workspace,
    },
    engine::Sockets,
};

/// After so long a connection that was closed a moment ago is not one of the proxy's own: the kernel remembers it for a
/// minute, and the proxy keeps one open for another.
const OWN_CLOSED_FOR: Duration = Duration::from_mins(3);

impl Ops {
    /// Notes activity where clients are connected to published ports, and answers those whose ports cannot be seen.
    pub async fn note_connections(
        &self,
        containers: Vec<(WorkspaceId, ContainerId, u16)>,
    ) -> BTreeSet<WorkspaceId> {
        let mut unseen = BTreeSet::new();
        for (id, container, port) in containers {
            match self.0.engine.sockets(&container, AGENT_PORT, port).await {
                Ok(Some(Sockets { open, closed, .. })) => {
                    let now = self.0.clock.now();
                    let passed = self.0.traffic.passed_at(id);
                    let is_own = passed.is_some_and(|at| now.since(at) < OWN_CLOSED_FOR);
                    if open || (closed && !is_own) {
                        self.0.traffic.note(id);
                    }
                }
                // A container that has just ended is not visible either; the passes for that see to it.
                Ok(None) => drop(unseen.insert(id)),
                Err(error) => {
                    tracing::debug!(%error, workspace = %id, "connections to a workspace's port could not be seen");
                    unseen.insert(id);
                }
            }
        }
        unseen
    }

    /// Whether a process in a workspace's container accepts connections from outside on the agent's port; `None` where
    /// that cannot be seen, where no container runs, and for runtimes that speak no protocol.
    pub async fn listens(&self, row: &Workspace) -> Option<bool> {
        let speaks = self.0.settings().runtimes.get(&row.runtime)?.readiness == Readiness::Heartbeat;
        let is_up = matches!(row.status, Status::Online | Status::Degraded);
        let (container, port) = (row.container.as_ref()?, row.host_port?);
        if !speaks || !is_up {
            return None;
        }
        let sockets = self.0.engine.sockets(container, AGENT_PORT, port).await.ok()??;
        Some(sockets.listens)
    }

    /// Whether connections to published ports can be seen, without which nothing is put to sleep by itself.
    pub async fn sees_connections(&self) -> bool {
        self.0.engine.sees_sockets().await
    }
}
