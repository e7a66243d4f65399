//! Conversions between columns and domain types.

use std::rc::Rc;

use rusqlite::{
    Row,
    types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, Value, ValueRef},
};
use uuid::Uuid;

use super::spec_columns::{self, spec_columns};
use crate::domain::{
    ids::{
        ActivityId, DelegationId, Incarnation, InstanceId, MemoryId, PlanId, TokenId, TrashId, WorkspaceId,
    },
    naming::WorkspaceName,
    operation::Revision,
    status::Status,
    time::Timestamp,
    workspace::{Delivery, Kind, Workspace},
};

macro_rules! uuid_column {
    ($($id:ident),*) => {$(
        impl ToSql for $id {
            fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
                Ok(ToSqlOutput::Borrowed(ValueRef::Blob(self.0.as_bytes())))
            }
        }
        impl FromSql for $id {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
                Uuid::from_slice(value.as_blob()?).map(Self).map_err(FromSqlError::other)
            }
        }
    )*};
}

uuid_column!(ActivityId, DelegationId, MemoryId, WorkspaceId, InstanceId, TrashId, TokenId, PlanId);

impl ToSql for Timestamp {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        self.0.to_sql()
    }
}

impl FromSql for Timestamp {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        value.as_i64().map(Self)
    }
}

impl ToSql for Incarnation {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        self.0.to_sql()
    }
}

impl FromSql for Incarnation {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        u32::column_result(value).map(Self)
    }
}

/// A list of ids, to bind to `rarray(?)`.
pub(super) fn ids(ids: &[WorkspaceId]) -> Rc<Vec<Value>> {
    Rc::new(ids.iter().map(|id| Value::Blob(id.0.as_bytes().to_vec())).collect())
}

/// A list of texts, to bind to `rarray(?)`.
pub(super) fn texts<T: AsRef<str>>(texts: &[T]) -> Rc<Vec<Value>> {
    Rc::new(texts.iter().map(|text| Value::Text(text.as_ref().to_owned())).collect())
}

/// Unwraps a parsed enum column; the error names the column and the unknown value.
pub(super) fn word<T>(column: &str, found: &str, parsed: Option<T>) -> rusqlite::Result<T> {
    parsed.ok_or_else(|| conversion(format!("column {column} contains the unknown value `{found}`")))
}

pub(super) fn conversion(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, error.into())
}

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
