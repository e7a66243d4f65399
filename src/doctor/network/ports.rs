//! Checks whether agents accept connections.

use super::limits::RECENT_HEARTBEAT;
use crate::{
    api::doctor::Check,
    doctor::{parts::Doctor, verdict::warn},
    domain::{naming::AGENT_PORT, status::Status},
    engine::ErrorKind,
    store::Described,
};

impl Doctor {
    /// Warns of agents that send heartbeats, but accept no connections; `None` if there are none.
    pub(super) async fn not_listening(&self, rows: &[Described]) -> Option<Check> {
        let now = self.0.clock.now();
        let mut found = Vec::new();
        for one in rows {
            let (Some(container), Some(port)) = (&one.row.container, one.row.host_port) else { continue };
            let is_up = matches!(one.row.status, Status::Online | Status::Degraded);
            let has_heartbeat =
                one.vitals.last_heartbeat_at.is_some_and(|at| now.since(at) <= RECENT_HEARTBEAT);
            if !(is_up && has_heartbeat) {
                continue;
            }
            match self.0.engine.sockets(container, AGENT_PORT, port).await {
                Ok(Some(sockets)) if !sockets.listens => found.push(one.row.name.to_string()),
                // Each further call could run into the same deadline.
                Err(error) if error.kind == ErrorKind::TimedOut => break,
                Ok(_) | Err(_) => {}
            }
        }
        (!found.is_empty()).then(|| {
            warn(
                "ports",
                format!("sending heartbeats, but not accepting connections on port {AGENT_PORT}: {}", found.join(", ")),
                format!(
                    "messages to these agents fail. An agent's server must listen on 0.0.0.0:{AGENT_PORT} (127.0.0.1 is \
                     not reachable from outside the container); `ostler logs NAME` may show the cause"
                ),
            )
        })
    }
}
