//! Prepare: the image, the volumes, and a container that is created but not started.

use super::{Prepared, StartOrder};
use crate::{
    domain::{
        ids::WorkspaceId,
        naming::{Owner, container_name, container_owner},
        runtime::Runtime,
        status::Status,
        trash::NamedContainer,
        workspace::Workspace,
    },
    engine::{ContainerSpec, EngineError, ErrorKind},
    ops::{Inner, OpError, OpResult, actor::Phase},
    store::WorkspaceEdit,
    testing::crash_point,
};

impl Inner {
    /// All steps that can fail without affecting a running container. `None` if the row was removed meanwhile.
    pub(super) async fn prepare(
        &self,
        row: &Workspace,
        runtime: &Runtime,
        order: &StartOrder,
        phase: &Phase,
    ) -> OpResult<Option<Prepared>> {
        phase.report("start: inspecting its container");
        let (mut runs, mut never_starts, mut port_lost) = (false, false, false);
        let held = match &row.container {
            None => None,
            Some(id) => match self.engine.inspect_container(id).await {
                Ok(seen) => {
                    (runs, never_starts) = (seen.state.may_run(), !seen.can_start_again());
                    port_lost = !self.has_its_port(row, seen.host_port).await?;
                    Some(NamedContainer { id: seen.id, name: seen.name })
                }
                Err(error) if error.kind == ErrorKind::Absent => None,
                Err(error) => return Err(error.into()),
            },
        };
        // A container that the engine will never start again, or whose port belongs to another workspace, is replaced.
        // The old one goes to the trash with its data.
        if let (Some(kept), false) = (&held, order.new_container || never_starts || port_lost) {
            self.ensure_volumes(row, runtime, order, phase).await?;
            self.restore_name(row, kept).await?;
            let spec_hash =
                row.container_spec_hash.clone().unwrap_or_else(|| self.spec_hash(&row.spec, runtime));
            let container = kept.id.clone();
            return Ok(Some(Prepared { container, spec_hash, made_now: false, replaces: None }));
        }
        // The command that error messages suggest for when the image exists again. It has to create a new container; if
        // there is a container that can start, `ostler start` would use that one.
        let again = if held.is_some() && !never_starts && !port_lost { "recreate" } else { "start" };
        self.ensure_image(row, again, phase).await?;
        if self.row(row.id).await?.status == Status::Removed {
            return Ok(None);
        }
        self.ensure_volumes(row, runtime, order, phase).await?;
        let Some((serial, port)) = self.allot(row, row.host_port.filter(|_| runs)).await? else {
            return Ok(None);
        };
        phase.report("start: creating its container");
        let spec = self.container_spec(row, runtime, serial, port).await?;
        crash_point::before("start: create its container");
        let mut made = self.engine.create_container(&spec).await;
        if made.as_ref().is_err_and(|error| error.kind == ErrorKind::Absent) {
            // A volume may have been removed since the check. The second check creates it again if that is allowed, and
            // otherwise reports it as missing.
            self.ensure_volumes(&self.row(row.id).await?, runtime, order, phase).await?;
            made = self.engine.create_container(&spec).await;
        }
        let container = match made {
            Ok(container) => container,
            Err(error) => return Err(self.verdict(error, |error| refused(error, &spec, row, again)).await),
        };
        crash_point::after("start: create its container");
        Ok(Some(Prepared {
            container,
            spec_hash: self.spec_hash(&row.spec, runtime),
            made_now: true,
            replaces: held,
        }))
    }

    /// Whether the row's port is the one that its container publishes. A container's port is fixed when it is created,
    /// so if the two differ, the container's port is stored in the row. The result is `false` if another row has that
    /// port. This happens because a registry that is recovering also allots ports that unknown containers publish: when
    /// such a container is adopted or restored later, its port may belong to another row.
    async fn has_its_port(&self, row: &Workspace, published: Option<u16>) -> OpResult<bool> {
        match published {
            Some(_) if row.host_port != published => {
                let edit = WorkspaceEdit { host_port: published, ..WorkspaceEdit::default() };
                self.store.edit_workspace(row.id, edit).await?;
                Ok(self.row(row.id).await?.host_port == published)
            }
            Some(_) | None => Ok(true),
        }
    }

    /// Renames a kept container that has a trash name back to its own name; otherwise no listing attributes it to its
    /// workspace. A container has such a name if its rename into the trash timed out, and the engine carried the rename
    /// out after the container was restored.
    async fn restore_name(&self, row: &Workspace, kept: &NamedContainer) -> OpResult<()> {
        let labels = self.labels(row.id);
        if let Owner::Trash(..) = container_owner(self.settings().instance, &kept.name, &labels) {
            crash_point::before("start: restore the container name");
            let name = container_name(row.id, row.container_serial);
            match self.engine.rename_container(&kept.id, &name).await {
                // Another container has that name by now. The row identifies its own by id.
                Err(error) if error.kind == ErrorKind::Conflict => {
                    tracing::warn!(workspace = %row.name, %error, "container keeps its trash name");
                }
                other => other?,
            }
            crash_point::after("start: restore the container name");
        }
        Ok(())
    }

    async fn ensure_image(&self, row: &Workspace, again: &str, phase: &Phase) -> OpResult<()> {
        let (name, image) = (&row.name, &row.spec.image);
        phase.report(format!("start: checking for image {image}"));
        if self.engine.has_image(image).await? {
            return Ok(());
        }
        phase.report(format!("start: pulling image {image}"));
        let progress = |line: &str| phase.report(format!("start: pulling image {image}: {line}"));
        crash_point::before("start: pull its image");
        self.engine.pull_image(image, &progress).await.map_err(|error| match error.kind {
            ErrorKind::ImageMissing => OpError::Impossible(format!(
                "image `{image}` is not on this machine and cannot be pulled: {}. Build or load it here (`podman \
                 images` lists the local images), or set another one (`ostler set {name} --image IMAGE`), then run \
                 `ostler {again} {name}`",
                error.message
            )),
            ErrorKind::Absent
            | ErrorKind::Conflict
            | ErrorKind::PortInUse
            | ErrorKind::HalfStarted
            | ErrorKind::Unreachable
            | ErrorKind::TimedOut
            | ErrorKind::Other => error.into(),
        })?;
        crash_point::after("start: pull its image");
        Ok(())
    }

    /// Allots a new serial for the container's name, and a port that is free on the host now. `own` is the port of
    /// this workspace's own running container and counts as free. `None` if the row was removed meanwhile.
    async fn allot(&self, row: &Workspace, own: Option<u16>) -> OpResult<Option<(u32, u16)>> {
        let mut taken = Vec::new();
        while taken.len() < 64 {
            let allotted = self.store.allot(row.id, self.settings().ports, taken.clone()).await?;
            let Some((serial, port)) = allotted else { break };
            if own == Some(port) || self.engine.port_is_free(port).await {
                return Ok(Some((serial, port)));
            }
            taken.push(port);
        }
        if self.row(row.id).await?.status == Status::Removed {
            return Ok(None);
        }
        Err(OpError::Impossible(format!(
            "no port is free in the range {}: free one, or widen `ports` in the configuration",
            self.settings().ports
        )))
    }

    /// Deletes a container that this order created, unless a row names it. If it cannot be deleted now, it is a stray
    /// that `settle` moves to the trash.
    pub(super) async fn discard(&self, id: WorkspaceId, prepared: &Prepared) {
        if !prepared.made_now {
            return;
        }
        // If the store cannot answer, the container is kept: at worst it is a stray.
        let Ok(row) = self.store.workspace(id).await else { return };
        let named = row.is_some_and(|row| row.container.as_ref() == Some(&prepared.container));
        if named {
            return;
        }
        crash_point::before("start: discard a container");
        match self.engine.delete_container(&prepared.container).await {
            Ok(()) => crash_point::after("start: discard a container"),
            Err(error) => {
                tracing::warn!(
                    container = %prepared.container.short(), %error,
                    "new container could not be deleted; settle moves it to the trash"
                );
            }
        }
    }
}

fn refused(error: &EngineError, spec: &ContainerSpec, row: &Workspace, again: &str) -> String {
    if error.kind == ErrorKind::ImageMissing {
        return format!(
            "image `{}` was removed during the start. Build or load it again, then run `ostler {again} {}`",
            spec.image, row.name
        );
    }
    format!("the engine refused to create its container: {}", error.message)
}
