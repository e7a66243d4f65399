//! Conversions between columns and domain types.

use std::rc::Rc;

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, Value, ValueRef};
use uuid::Uuid;

use crate::domain::{
    ids::{
        ActivityId, DelegationId, Incarnation, InstanceId, MemoryId, PlanId, TokenId, TrashId, WorkspaceId,
    },
    time::Timestamp,
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
