//! Noting what a container did by itself. The look that a pass decided on was the first; this is the
//! second, under the actor, and only the two together move a status.

use serde_json::json;

use super::{Applied, OpResult, Ops};
use crate::{
    domain::{
        ids::{ContainerId, Incarnation, WorkspaceId},
        status::Cause,
    },
    engine::Trouble,
    store::StatusChange,
};

impl Ops {
    pub(super) async fn mark_offline_now(
        &self,
        id: WorkspaceId,
        incarnation: Incarnation,
    ) -> OpResult<Applied> {
        let row = self.0.row(id).await?;
        let seen = match &row.container {
            None => None,
            Some(container) => match self.0.engine.inspect_container(container).await {
                Ok(seen) if seen.state.may_run() => return Ok(Applied::Raced("its container runs".into())),
                Ok(seen) => Some(seen),
                Err(error) if error.trouble == Trouble::Absent => None,
                Err(error) => return Err(error.into()),
            },
        };
        let (reason, told) = match &seen {
            Some(ended) => (
                match (ended.out_of_memory, ended.exit_code) {
                    (true, _) => "its container was killed for lack of memory".to_owned(),
                    (false, Some(code)) => format!("its container ended with exit code {code}"),
                    (false, None) => "its container ended".to_owned(),
                },
                json!({ "exit_code": ended.exit_code, "oom": ended.out_of_memory }),
            ),
            None => ("its container is gone".to_owned(), json!({})),
        };
        let mut told = told;
        told["reason"] = json!(reason);
        let change = StatusChange {
            workspace: id,
            cause: Cause::ContainerGone,
            incarnation: Some(incarnation),
            detail: Some(reason.clone()),
            told,
            at: self.0.clock.now(),
        };
        if self.0.store.change_status(change).await? {
            Ok(Applied::Done(reason))
        } else {
            Ok(Applied::Raced("its status changed meanwhile".into()))
        }
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
        if !self.0.engine.inspect_container(container).await?.state.may_run() {
            return Ok(Applied::Raced("its container does not run".into()));
        }
        let change = StatusChange {
            workspace: id,
            cause: Cause::ContainerReady,
            incarnation: Some(incarnation),
            detail: None,
            told: json!({ "recovered_from": row.status.as_str() }),
            at: self.0.clock.now(),
        };
        if self.0.store.change_status(change).await? {
            Ok(Applied::Done("online".into()))
        } else {
            Ok(Applied::Raced("its status changed meanwhile".into()))
        }
    }
}
