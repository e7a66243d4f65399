//! The files that a start writes into the config volume: the token and the configuration.

use crate::{
    domain::{
        ids::{ContainerId, WorkspaceId},
        naming::{VolumeKind, WorkspaceName, volume_name},
        runtime::Runtime,
        token::Token,
    },
    engine::{EngineError, EngineResult, ErrorKind, FileToWrite, TOO_LONG},
    ops::{Inner, OpError, OpResult},
    store::WorkspaceEdit,
    testing::{
        crash_point,
        mutation::{Mutation, is},
    },
};

/// Mount point of the config volume: the agent's configuration and token.
pub(in crate::ops) const CONFIG_DIRECTORY: &str = "/configs";

/// Name of the token file in `CONFIG_DIRECTORY`.
pub(in crate::ops) const TOKEN_FILE: &str = ".auth_token";

/// Name of the configuration file in `CONFIG_DIRECTORY`.
const CONFIG_FILE: &str = "config.yaml";

impl Inner {
    /// Writes the token and reads it back; writes the configuration if it is missing or changed. The files belong to
    /// the agent's uid: the agent could not read a token file that is owned by root and has mode 0600.
    pub(super) async fn write_files(
        &self,
        (id, workspace): (WorkspaceId, &WorkspaceName),
        runtime: &Runtime,
        container: &ContainerId,
        token: &Token,
    ) -> OpResult<()> {
        let file = |name: &str, content: &str, mode| FileToWrite {
            name: name.to_owned(),
            content: content.as_bytes().to_vec(),
            mode,
            owner: runtime.user,
        };
        let token_file = file(TOKEN_FILE, token.expose(), 0o600);
        crash_point::before("start: write its token");
        let written = self.engine.write_file(container, CONFIG_DIRECTORY, &token_file).await;
        self.check_written((id, workspace), container, &token_file, written).await?;
        crash_point::after("start: write its token");
        let path = format!("{CONFIG_DIRECTORY}/{TOKEN_FILE}");
        if !is(Mutation::NoReadBack) {
            let repair_advice = repair_advice(id, workspace);
            let unreadable = |error: &EngineError| {
                format!("{path} cannot be read back: {}. {repair_advice}", error.message)
            };
            match self.engine.file_holds(container, &path, token.expose().as_bytes()).await {
                Ok(true) => {}
                Ok(false) => {
                    return Err(OpError::Impossible(format!(
                        "{path} does not contain what was written to it. {repair_advice}"
                    )));
                }
                Err(error) => return Err(self.verdict_of(container, error, unreadable).await),
            }
        }
        let row = self.row(id).await?;
        let Some(config) = row.spec.config.or_else(|| runtime.config_template.clone()) else { return Ok(()) };
        let path = format!("{CONFIG_DIRECTORY}/{CONFIG_FILE}");
        // From the same row as the configuration: a change that is made after this row was read stays pending.
        let pending = row.config_pending;
        match self.engine.read_file(container, &path).await {
            Ok(_) if !pending => Ok(()),
            // A regular file that is too long to read is the agent's own and stays. Anything that no runtime can read
            // as a configuration (a directory, a FIFO) is replaced, like a missing file.
            Err(error) if error.kind == ErrorKind::Conflict && error.message == TOO_LONG && !pending => {
                Ok(())
            }
            Err(error) if !matches!(error.kind, ErrorKind::Absent | ErrorKind::Conflict) => {
                let repair_advice = repair_advice(id, workspace);
                let unreadable = |error: &EngineError| {
                    format!("{path} cannot be read: {}. {repair_advice}", error.message)
                };
                Err(self.verdict_of(container, error, unreadable).await)
            }
            Ok(_) | Err(_) => {
                let config_file = file(CONFIG_FILE, &config, 0o644);
                crash_point::before("start: write its configuration");
                let written = self.engine.write_file(container, CONFIG_DIRECTORY, &config_file).await;
                self.check_written((id, workspace), container, &config_file, written).await?;
                crash_point::after("start: write its configuration");
                if pending {
                    let edit = WorkspaceEdit { config_written: Some(config), ..WorkspaceEdit::default() };
                    self.store.edit_workspace(id, edit).await?;
                }
                Ok(())
            }
        }
    }

    /// Reports a failed write into the config volume. If a working engine refuses the write, the cause is a file that
    /// the agent left in the volume, or a full disk. Every start would fail in the same way, so an operator has to act.
    async fn check_written(
        &self,
        (id, workspace): (WorkspaceId, &WorkspaceName),
        container: &ContainerId,
        file: &FileToWrite,
        written: EngineResult<()>,
    ) -> OpResult<()> {
        let Err(error) = written else { return Ok(()) };
        let name = &file.name;
        let repair_advice = repair_advice(id, workspace);
        let refused = |error: &EngineError| {
            format!("{CONFIG_DIRECTORY}/{name} cannot be written: {}. {repair_advice}", error.message)
        };
        Err(self.verdict_of(container, error, refused).await)
    }
}

/// Advice to the operator about a file in the config volume that a working engine cannot write or read. The engine's
/// message gives the cause: for example, the agent put something else in the file's place, or the disk is full.
fn repair_advice(id: WorkspaceId, name: &WorkspaceName) -> String {
    let volume = volume_name(id, VolumeKind::Config);
    format!(
        "Repair its config volume (`podman volume inspect {volume}` shows its path), then run `ostler start {name}`"
    )
}
