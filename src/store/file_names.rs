//! Names of the database's files.

use std::path::{Path, PathBuf};

/// The database's file name inside the data directory.
pub const FILE_NAME: &str = "ostler.db";

/// Returns the path of a database's log.
pub(super) fn log_of(path: &Path) -> PathBuf {
    path.with_extension("db-wal")
}
