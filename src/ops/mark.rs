//! Records that a container has exited or is ready. A pass saw this in its snapshot. The order inspects the container a
//! second time, under the workspace's actor, and the status changes only if both observations agree.

use std::time::Duration;

use serde_json::json;

use super::{Applied, OpResult, Ops, RESTART_DUE, paused_by_hand};
use crate::{
    domain::{
        duration::words,
        ids::{ContainerId, Incarnation, WorkspaceId},
        observed::ContainerState,
        status::Cause,
        time::Timestamp,
        token::redact_tokens,
    },
    engine::log_tail,
    runtime::clock::within,
    store::{ContainerEnd, GoneResult, Precondition, StatusChange},
    testing::mutation::{Mutation, is},
};

/// Maximum size of a log tail in an event (wire protocol, §9).
const LOG_MAX_BYTES: usize = 8 * 1024;
const LOG_LINES: u32 = 50;
/// Maximum time for reading a container's log before its exit is recorded.
const LOG_DEADLINE: Duration = Duration::from_secs(3);

impl Ops {
    pub(super) async fn mark_offline_now(
        &self,
        id: WorkspaceId,
        incarnation: Incarnation,
    ) -> OpResult<Applied> {
        let row = self.0.row(id).await?;
        if row.incarnation != incarnation {
            return Ok(Applied::Raced("it was restarted meanwhile".into()));
        }
        let seen = match &row.container {
            None => None,
            Some(container) => match self.0.find_container(container).await {
                Ok(Some(seen)) if seen.state.may_run() => {
                    return Ok(Applied::Raced("its container runs".into()));
                }
                Ok(seen) => seen,
                Err(_) if is(Mutation::UnknownIsGone) => None,
                Err(error) => return Err(error),
            },
        };
        // If this process has not seen the container running, the container exited when the host went down, or while
        // the daemon was not running.
        let while_down = !self.0.actors.has_run(id, row.incarnation) && !is(Mutation::ChargeForReboots);
        let (reason, payload) = match &seen {
            Some(ended) => (
                match (ended.out_of_memory, ended.exit_code) {
                    (true, _) => "its container was killed because it ran out of memory".to_owned(),
                    (false, Some(code)) => format!("its container exited with exit code {code}"),
                    (false, None) => "its container exited".to_owned(),
                },
                json!({ "exit_code": ended.exit_code, "oom": ended.out_of_memory }),
            ),
            None => ("its container is gone".to_owned(), json!({})),
        };
        let reason = if while_down { format!("{reason} while the daemon was not running") } else { reason };
        let mut payload = payload;
        payload["reason"] = json!(reason);
        if while_down {
            payload["while_daemon_down"] = json!(true);
        }
        if let Some(container) = row.container.as_ref().filter(|_| seen.is_some()) {
            payload["log_tail"] = json!(self.log_tail(container).await);
        }
        let end = ContainerEnd {
            workspace: id,
            incarnation,
            reason: reason.clone(),
            payload,
            budget: self.0.settings().restart,
            charged: !while_down,
        };
        let now = self.0.clock.now();
        Ok(match self.0.store.note_container_end(end, now).await? {
            GoneResult::RestartDue(due_at) => {
                self.0.wake.after(RESTART_DUE, due_at.since(now));
                Applied::Done(reason)
            }
            GoneResult::Parked => {
                Applied::Done(format!("{reason}; its restart budget is spent, so it is parked"))
            }
            GoneResult::Raced => Applied::Raced("its status changed meanwhile".into()),
        })
    }

    /// The last lines of a container's log, without any token that is valid now: an agent may print its own.
    pub async fn log_tail(&self, container: &ContainerId) -> String {
        let tail = log_tail(&*self.0.engine, container, LOG_LINES, LOG_MAX_BYTES);
        let tail = match within(&*self.0.clock, LOG_DEADLINE, tail).await {
            Some(Ok(tail)) => tail,
            Some(Err(error)) => return format!("(its log cannot be read: {error})"),
            None => return "(its log could not be read in time)".into(),
        };
        let now = self.0.clock.now();
        redact_tokens(&tail, |digest| self.0.store.token_subject(digest, now).is_some())
    }

    /// Marks a start as timed out if no heartbeat was received in time, unless the status changed meanwhile. The
    /// container is left running.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn time_out_provisioning(
        &self,
        id: WorkspaceId,
        incarnation: Incarnation,
        since: Timestamp,
        limit_seconds: u64,
    ) -> OpResult<Applied> {
        let row = self.0.row(id).await?;
        let log_tail = match &row.container {
            Some(container) => self.log_tail(container).await,
            None => String::new(),
        };
        let limit = words(Duration::from_secs(limit_seconds));
        let error = format!("no heartbeat within {limit} of its start");
        let change = StatusChange {
            workspace: id,
            cause: Cause::ProvisioningTimedOut,
            incarnation: Some(incarnation),
            detail: Some(error.clone()),
            payload: json!({
                "error": error, "timeout_secs": limit_seconds, "runtime": row.spec.runtime,
                "source": "time_out_provisioning", "log_tail": log_tail,
            }),
            at: self.0.clock.now(),
        };
        let timed_out = self.0.store.change_status_under(change, Precondition::ChangedSince(since)).await?;
        Ok(if timed_out {
            Applied::Done(error)
        } else {
            Applied::Raced("its status changed meanwhile".into())
        })
    }

    pub(super) async fn mark_ready_now(
        &self,
        id: WorkspaceId,
        incarnation: Incarnation,
        container: &ContainerId,
    ) -> OpResult<Applied> {
        let row = self.0.row(id).await?;
        if row.container.as_ref() != Some(container) {
            return Ok(Applied::Raced("it has another container now".into()));
        }
        match self.0.engine.inspect_container(container).await?.state {
            ContainerState::Running => {}
            ContainerState::Paused => return Ok(Applied::Raced(paused_by_hand(container))),
            ContainerState::Created
            | ContainerState::Stopping
            | ContainerState::Exited
            | ContainerState::Removing
            | ContainerState::Unknown => return Ok(Applied::Raced("its container does not run".into())),
        }
        let change = StatusChange {
            workspace: id,
            cause: Cause::ContainerReady,
            incarnation: Some(incarnation),
            detail: None,
            payload: json!({ "recovered_from": row.status.as_str() }),
            at: self.0.clock.now(),
        };
        if self.0.store.change_status(change).await? {
            Ok(Applied::Done("online".into()))
        } else {
            Ok(Applied::Raced("its status changed meanwhile".into()))
        }
    }
}
