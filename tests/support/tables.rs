//! All rows of a database, and comparison of two databases.

use std::collections::BTreeMap;

use rusqlite::{Connection, types::Value};

/// Columns that a migration renamed: table, old name, new name.
const RENAMED: &[(&str, &str, &str)] = &[("activity", "payload", "request_body")];

/// The rows of every table.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Tables(BTreeMap<String, Table>);

#[derive(Clone, Debug, Default, PartialEq)]
struct Table {
    columns: Vec<String>,
    rows: Vec<Vec<Value>>,
}

impl Tables {
    /// Reads all committed rows in one transaction.
    pub(crate) fn read(sql: &Connection) -> rusqlite::Result<Self> {
        let transaction = sql.unchecked_transaction()?;
        // `log_mark` is omitted, because opening a database changes it.
        let mut query = transaction.prepare(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name <> 'log_mark' ORDER BY name",
        )?;
        let names = query.query_map([], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()?;
        let mut tables = BTreeMap::new();
        for name in names {
            let mut query = transaction.prepare(&format!("SELECT * FROM \"{name}\""))?;
            let columns: Vec<_> = query.column_names().into_iter().map(str::to_owned).collect();
            let width = columns.len();
            let rows = query
                .query_map([], |row| (0..width).map(|column| row.get(column)).collect())?
                .collect::<Result<_, _>>()?;
            tables.insert(name, Table { columns, rows });
        }
        Ok(Self(tables))
    }

    pub(crate) fn rows(&self) -> u64 {
        self.0.values().map(|table| table.rows.len() as u64).sum()
    }

    pub(crate) fn values(&self) -> u64 {
        self.0.values().map(|table| (table.rows.len() * table.columns.len()) as u64).sum()
    }

    /// What is missing or different in `later`. It may have additional tables and columns; it must have the same number
    /// of rows, and the same value in every column that exists here.
    pub(crate) fn lost_in(&self, later: &Self) -> Vec<String> {
        let mut lost = Vec::new();
        for (name, table) in &self.0 {
            let Some(new) = later.0.get(name) else {
                lost.push(format!("the table {name} is missing"));
                continue;
            };
            let position = |column: &String| {
                let renamed = RENAMED.iter().find(|(of, old, _)| (*of, *old) == (name, column));
                let now = renamed.map_or(column.as_str(), |(_, _, new)| new);
                new.columns.iter().position(|column| column == now)
            };
            let positions: Vec<_> = table.columns.iter().map(position).collect();
            for (column, position) in table.columns.iter().zip(&positions) {
                if position.is_none() {
                    lost.push(format!("the column {name}.{column} is missing"));
                }
            }
            let before = written(table.rows.iter().map(|row| row.iter().collect()));
            let after =
                written(new.rows.iter().map(|row| positions.iter().flatten().map(|at| &row[*at]).collect()));
            for (row, times) in &before {
                let now = after.get(row).copied().unwrap_or(0);
                if now != *times {
                    lost.push(format!("{name} had this row {times} times and has it {now} times: {row}"));
                }
            }
            for row in after.keys().filter(|row| !before.contains_key(*row)) {
                lost.push(format!("{name} has a row that it did not have: {row}"));
            }
        }
        lost
    }
}

/// Rows as text, with the number of occurrences of each.
fn written<'a>(rows: impl Iterator<Item = Vec<&'a Value>>) -> BTreeMap<String, usize> {
    let mut counted = BTreeMap::new();
    for row in rows {
        *counted.entry(format!("{row:?}")).or_default() += 1;
    }
    counted
}
