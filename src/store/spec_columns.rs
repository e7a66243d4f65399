//! The columns of the table `workspaces` that contain a workspace's spec.

use rusqlite::{Row, ToSql, types::Value};

use super::{StoreError, StoreResult, row::conversion};
use crate::domain::spec::WorkspaceSpec;

/// The names of the columns, each after a prefix: `w.` in a query, `:` for the parameters of a statement.
macro_rules! spec_columns {
    ($prefix:literal) => {
        concat!(
            $prefix,
            "role, ",
            $prefix,
            "runtime, ",
            $prefix,
            "tier, ",
            $prefix,
            "parent_id, ",
            $prefix,
            "url, ",
            $prefix,
            "hibernation_idle_minutes, ",
            $prefix,
            "max_concurrent_tasks, ",
            $prefix,
            "restart_when_wedged, ",
            $prefix,
            "spec"
        )
    };
}
pub(super) use spec_columns;

/// Number of columns.
pub(super) const COUNT: usize = 9;

/// The values of the parameters `spec_columns!(":")`.
pub(super) struct SpecValues([(&'static str, Value); COUNT]);

impl SpecValues {
    pub(super) fn of(spec: &WorkspaceSpec) -> StoreResult<Self> {
        let json = serde_json::to_string(spec).map_err(|error| StoreError::new(error.to_string()))?;
        let parent = spec.parent.map(|parent| parent.0.as_bytes().to_vec());
        Ok(Self([
            (":role", spec.role.clone().into()),
            (":runtime", spec.runtime.clone().into()),
            (":tier", spec.tier.number().into()),
            (":parent_id", parent.into()),
            (":url", spec.url.clone().into()),
            (":hibernation_idle_minutes", spec.hibernation_idle_minutes.into()),
            (":max_concurrent_tasks", spec.max_concurrent_tasks.into()),
            (":restart_when_wedged", spec.restart_when_wedged.into()),
            (":spec", json.into()),
        ]))
    }

    /// These parameters and others.
    pub(super) fn and<'a>(&'a self, others: &[(&'a str, &'a dyn ToSql)]) -> Vec<(&'a str, &'a dyn ToSql)> {
        let own = self.0.iter().map(|(name, value)| (*name, value as &dyn ToSql));
        own.chain(others.iter().copied()).collect()
    }
}

/// Reads the columns, the first of which has this index.
pub(super) fn read(row: &Row<'_>, first: usize) -> rusqlite::Result<WorkspaceSpec> {
    let tier: u8 = row.get(first + 2)?;
    let json: String = row.get(first + 8)?;
    Ok(WorkspaceSpec {
        role: row.get(first)?,
        runtime: row.get(first + 1)?,
        tier: tier.try_into().map_err(conversion)?,
        parent: row.get(first + 3)?,
        url: row.get(first + 4)?,
        hibernation_idle_minutes: row.get(first + 5)?,
        max_concurrent_tasks: row.get(first + 6)?,
        restart_when_wedged: row.get(first + 7)?,
        ..serde_json::from_str(&json).map_err(conversion)?
    })
}

#[cfg(test)]
mod tests {
    use super::{super::workspace_columns::workspace, *};
    use crate::{
        domain::{ids::WorkspaceId, spec::tests::changes},
        store::workspace_columns::WORKSPACE_COLUMNS,
    };

    #[test]
    fn every_field_of_a_spec_is_stored_and_read() {
        let sql = rusqlite::Connection::open_in_memory().unwrap();
        sql.execute_batch(include_str!("../../schema.sql")).unwrap();
        let insert = concat!(
            "INSERT INTO workspaces (id, name, kind, status, status_since, created_at, ",
            spec_columns!(""),
            ") VALUES (:id, :name, 'container', 'online', 0, 0, ",
            spec_columns!(":"),
            ")"
        );
        let ids = (1..).map(|number| WorkspaceId(uuid::Uuid::from_u128(number)));
        for (id, (field, _, spec)) in ids.zip(changes()) {
            let values = SpecValues::of(&spec).unwrap();
            sql.execute(insert, &*values.and(&[(":id", &id), (":name", &field)])).unwrap();
            let text = format!("SELECT {WORKSPACE_COLUMNS} FROM workspaces w WHERE w.id = ?1");
            let read = sql.query_row(&text, [id], workspace).unwrap();
            assert_eq!(read.spec, spec, "{field}");
        }
    }
}
