//! Conversions between columns and domain types.

use std::rc::Rc;

use rusqlite::{
    Row,
    types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, Value, ValueRef},
};
use uuid::Uuid;

use crate::domain::{
    ids::{
        ActivityId, DelegationId, Incarnation, InstanceId, MemoryId, PlanId, TokenId, TrashId, WorkspaceId,
    },
    naming::WorkspaceName,
    operation::Revision,
    status::Status,
    time::Timestamp,
    workspace::{Delivery, Kind, Policy, Workspace},
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
pub(super) const WORKSPACE_COLUMNS: &str = "w.id, w.name, w.role, w.kind, w.runtime, w.tier, w.parent_id, \
     w.spec, w.status, w.failure, w.status_detail, w.status_since, w.incarnation, w.container_id, \
     w.container_serial, w.host_port, w.container_spec_hash, w.has_work_volume, w.url, w.created_at, w.removed_at, \
     w.hibernation_idle_minutes, w.max_concurrent_tasks, w.restart_when_wedged, w.paused_with, w.restart_due_at, \
     w.delivery_mode, w.removed_with, w.config_pending, w.revision";

/// Number of columns in [`WORKSPACE_COLUMNS`].
pub(super) const WORKSPACE_COLUMN_COUNT: usize = 30;

/// Reads a row of [`WORKSPACE_COLUMNS`].
pub(super) fn workspace(row: &Row<'_>) -> rusqlite::Result<Workspace> {
    let kind: String = row.get(3)?;
    let tier: u8 = row.get(5)?;
    let spec: String = row.get(7)?;
    let (status, failure): (String, Option<String>) = (row.get(8)?, row.get(9)?);
    let container: Option<String> = row.get(13)?;
    let delivery: String = row.get(26)?;
    Ok(Workspace {
        id: row.get(0)?,
        name: WorkspaceName::stored(row.get(1)?),
        role: row.get(2)?,
        kind: word("kind", &kind, Kind::ALL.into_iter().find(|k| k.as_str() == kind))?,
        runtime: row.get(4)?,
        tier: tier.try_into().map_err(conversion)?,
        parent: row.get(6)?,
        spec: serde_json::from_str(&spec).map_err(conversion)?,
        status: word("status", &status, Status::parse(&status, failure.as_deref()))?,
        status_detail: row.get(10)?,
        status_since: row.get(11)?,
        incarnation: row.get(12)?,
        container: container.map(TryInto::try_into).transpose().map_err(conversion)?,
        container_serial: row.get(14)?,
        host_port: row.get(15)?,
        container_spec_hash: row.get(16)?,
        config_pending: row.get(28)?,
        has_work_volume: row.get(17)?,
        url: row.get(18)?,
        created_at: row.get(19)?,
        removed_at: row.get(20)?,
        policy: Policy {
            hibernation_idle_minutes: row.get(21)?,
            max_concurrent_tasks: row.get(22)?,
            restart_when_wedged: row.get(23)?,
            delivery: word("delivery_mode", &delivery, Delivery::parse(&delivery))?,
        },
        paused_with: row.get(24)?,
        restart_due_at: row.get(25)?,
        removed_with: row.get(27)?,
        revision: Revision(row.get(29)?),
    })
}
