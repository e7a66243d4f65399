//! The columns of a workspace's row.

use rusqlite::Row;

use super::{
    row::{conversion, word},
    spec_columns::{self, spec_columns},
};
use crate::domain::{
    naming::WorkspaceName,
    operation::Revision,
    status::Status,
    workspace::{Delivery, Kind, Workspace},
};

/// Columns that [`workspace`] reads, in its order.
pub(super) const WORKSPACE_COLUMNS: &str = concat!(
    "w.id, w.name, w.kind, w.delivery_mode, w.status, w.failure, w.status_detail, w.status_since, w.incarnation, \
     w.container_id, w.container_serial, w.host_port, w.container_spec_hash, w.config_pending, w.has_work_volume, \
     w.paused_with, w.removed_with, w.restart_due_at, w.created_at, w.removed_at, w.revision, ",
    spec_columns!("w.")
);

/// Number of columns in [`WORKSPACE_COLUMNS`].
pub(super) const WORKSPACE_COLUMN_COUNT: usize = FIRST_SPEC_COLUMN + spec_columns::COUNT;

/// Index of the first column of the spec in [`WORKSPACE_COLUMNS`].
const FIRST_SPEC_COLUMN: usize = 21;

/// Reads a row of [`WORKSPACE_COLUMNS`].
pub(super) fn workspace(row: &Row<'_>) -> rusqlite::Result<Workspace> {
    let kind: String = row.get(2)?;
    let delivery: String = row.get(3)?;
    let (status, failure): (String, Option<String>) = (row.get(4)?, row.get(5)?);
    let container: Option<String> = row.get(9)?;
    Ok(Workspace {
        id: row.get(0)?,
        name: WorkspaceName::stored(row.get(1)?),
        kind: word("kind", &kind, Kind::ALL.into_iter().find(|k| k.as_str() == kind))?,
        delivery: word("delivery_mode", &delivery, Delivery::parse(&delivery))?,
        status: word("status", &status, Status::parse(&status, failure.as_deref()))?,
        status_detail: row.get(6)?,
        status_since: row.get(7)?,
        incarnation: row.get(8)?,
        container: container.map(TryInto::try_into).transpose().map_err(conversion)?,
        container_serial: row.get(10)?,
        host_port: row.get(11)?,
        container_spec_hash: row.get(12)?,
        config_pending: row.get(13)?,
        has_work_volume: row.get(14)?,
        paused_with: row.get(15)?,
        removed_with: row.get(16)?,
        restart_due_at: row.get(17)?,
        created_at: row.get(18)?,
        removed_at: row.get(19)?,
        revision: Revision(row.get(20)?),
        spec: spec_columns::read(row, FIRST_SPEC_COLUMN)?,
    })
}
