//! Connections to published ports, which do not pass through ostler.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use super::Ops;
use crate::{
    domain::{
        ids::{ContainerId, WorkspaceId},
        naming::AGENT_PORT,
        runtime::Readiness,
        status::Status,
        workspace::Workspace,
    },
    engine::{EngineResult, Sockets},
    runtime::clock::Boxed,
};

/// Time after the last proxied request in which a closed connection may be one of ostler's own proxy. The kernel
/// remembers a closed connection for one minute, and the proxy closes an idle connection some time after the request.
const OWN_CLOSED_FOR: Duration = Duration::from_mins(3);

impl Ops {
    /// Records activity for workspaces whose published port has a client. Returns the workspaces whose ports cannot be
    /// seen.
    pub async fn note_connections(
        &self,
        containers: Vec<(WorkspaceId, ContainerId, u16)>,
    ) -> BTreeSet<WorkspaceId> {
        let mut seen = BTreeSet::new();
        let ids: BTreeSet<_> = containers.iter().map(|(id, ..)| *id).collect();
        let engine = Arc::clone(&self.0.engine);
        let ask = move |container: ContainerId, port| -> Boxed<EngineResult<Option<Sockets>>> {
            let engine = Arc::clone(&engine);
            Box::pin(async move { engine.sockets(&container, AGENT_PORT, port).await })
        };
        ask_each(containers, ask, |id, Sockets { open, closed, .. }| {
            seen.insert(id);
            let now = self.0.clock.now();
            let passed = self.0.traffic.passed_at(id);
            let is_own = passed.is_some_and(|at| now.since(at) < OWN_CLOSED_FOR);
            if open || (closed && !is_own) {
                self.0.traffic.note(id);
            }
        })
        .await;
        &ids - &seen
    }

    /// Whether a process in a workspace's container accepts connections from outside on the agent's port. `None` if
    /// that cannot be seen, if no container runs, and for runtimes without the heartbeat protocol.
    pub async fn listens(&self, row: &Workspace) -> Option<bool> {
        let speaks = self.0.settings().runtimes.get(&row.spec.runtime)?.readiness == Readiness::Heartbeat;
        let is_up = matches!(row.status, Status::Online | Status::Degraded);
        let (container, port) = (row.container.as_ref()?, row.host_port?);
        if !speaks || !is_up {
            return None;
        }
        let sockets = self.0.engine.sockets(container, AGENT_PORT, port).await.ok()??;
        Some(sockets.listens)
    }

    /// Whether connections to published ports can be seen; otherwise no idle workspace is hibernated.
    pub async fn can_see_connections(&self) -> bool {
        self.0.engine.can_see_sockets().await
    }
}

/// Queries one container after the other and reports each answer. Stops at the first timeout: each further call would
/// take as long.
async fn ask_each(
    containers: Vec<(WorkspaceId, ContainerId, u16)>,
    ask: impl Fn(ContainerId, u16) -> Boxed<EngineResult<Option<Sockets>>>,
    mut saw: impl FnMut(WorkspaceId, Sockets),
) {
    for (id, container, port) in containers {
        match ask(container, port).await {
            Ok(Some(sockets)) => saw(id, sockets),
            // This is also the answer for a container that has just exited, which other passes handle.
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(%error, workspace = %id, "connections to the workspace's port could not be read");
                if error.gave_no_answer() {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU16, Ordering};

    use super::*;
    use crate::engine::{EngineError, ErrorKind};

    #[tokio::test]
    async fn socket_queries_stop_at_the_first_engine_timeout() {
        let containers: Vec<_> = (1..=5_u16)
            .map(|port| {
                let container = ContainerId::try_from("c".repeat(64)).unwrap();
                (WorkspaceId(uuid::Uuid::from_u128(u128::from(port))), container, port)
            })
            .collect();
        let (asked, mut seen) = (AtomicU16::new(0), Vec::new());
        let ask = |_, port| -> Boxed<EngineResult<Option<Sockets>>> {
            asked.fetch_add(1, Ordering::Relaxed);
            let error = |kind| EngineError::new(kind, "read its sockets", "why");
            let answer = match port {
                1 => Err(error(ErrorKind::Other)),
                2 => Ok(Some(Sockets::default())),
                _ => Err(error(ErrorKind::TimedOut)),
            };
            Box::pin(std::future::ready(answer))
        };
        ask_each(containers, ask, |id, _| seen.push(id.0.as_u128())).await;
        assert_eq!(seen, [2], "an error for one workspace must not affect the next");
        assert_eq!(asked.into_inner(), 3, "an engine that did not answer was called again");
    }
}
