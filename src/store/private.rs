//! Directories and files that only the user of ostler can access.

use std::{
    fs::{DirBuilder, OpenOptions},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

use super::{MIRROR_FILE_NAME, OpenError};

/// Creates a directory with mode 0700. An existing directory gets that mode only if it contains nothing but ostler's
/// files.
///
/// A directory with other files (`--data-dir /tmp`) keeps its mode; ostler's files in it are private in any case.
pub(super) fn private_directory(path: &Path) -> Result<(), OpenError> {
    let location = |source| OpenError::Location { path: path.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(location)?;
    for entry in std::fs::read_dir(path).map_err(location)? {
        let name = entry.map_err(location)?.file_name();
        let ours = ["ostler.", MIRROR_FILE_NAME, "quickstart"];
        if !ours.iter().any(|known| name.to_string_lossy().starts_with(known)) {
            return Ok(());
        }
    }
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o700)).map_err(location)
}

/// Creates the file before SQLite does: SQLite gives its auxiliary files the mode of this one.
pub(super) fn private_file(path: &Path) -> Result<(), OpenError> {
    let location = |source| OpenError::Location { path: path.to_owned(), source };
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path).map_err(location)?;
    file.set_permissions(PermissionsExt::from_mode(0o600)).map_err(location)
}
