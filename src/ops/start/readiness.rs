//! Readiness: whether a started container is still running after `READY_AFTER`.

use crate::{
    domain::{
        ids::{ContainerId, Incarnation, WorkspaceId},
        liveness::READY_AFTER,
    },
    engine::ErrorKind,
    ops::{Ops, Order},
    runtime::clock::Boxed,
};

impl Ops {
    /// Inspects the container again after `READY_AFTER` and marks the workspace online or offline. If this process
    /// ends before that, the sweeps do it.
    pub(super) fn watch_readiness(&self, id: WorkspaceId, incarnation: Incarnation, container: ContainerId) {
        let ops = self.clone();
        let watch: Boxed<()> = Box::pin(async move {
            ops.0.clock.sleep(READY_AFTER).await;
            let seen = match ops.0.engine.inspect_container(&container).await {
                Ok(seen) => seen.state.may_run(),
                Err(error) if error.kind == ErrorKind::Absent => false,
                // State unknown: the sweeps decide.
                Err(_) => return,
            };
            let order =
                if seen { Order::MarkReady(incarnation, container) } else { Order::MarkOffline(incarnation) };
            let _carried_out_anyway = ops.submit(id, order);
        });
        self.0.spawn.spawn(watch);
    }
}
