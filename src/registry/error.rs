//! Why this process must not run as the daemon of this registry.

use std::{io, path::PathBuf};

use crate::{
    domain::ids::InstanceId,
    store::{OpenError, StoreError},
};

/// Why this process must not run as the daemon of this registry.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Another process holds a lock.
    #[error("{what} is in use by another ostler{}. Stop that one first, or choose another directory with `--data-dir`", lock_holder(*pid))]
    Held {
        /// The locked object, for the message.
        what: String,
        /// Process id of the holder, if the lock file contains one.
        pid: Option<u32>,
    },
    /// The data directory was copied.
    #[error(
        "the data directory {path} is a copy: its mirror file was written in another directory. If the original is no \
         longer used, run `ostler doctor --accept-copy`. If it is still used, choose a new directory with `--data-dir`: \
         two daemons with one identity would remove each other's containers"
    )]
    Copied {
        /// Path of the data directory.
        path: PathBuf,
    },
    /// Database and mirror belong to different registries.
    #[error(
        "the database in {path} belongs to instance {database}, but instance.json to instance {mirror}. Restore the \
         file that belongs to this machine's containers, or move instance.json away to continue with the database's \
         identity"
    )]
    Mixed {
        /// Path of the data directory.
        path: PathBuf,
        /// Identity stored in the database.
        database: InstanceId,
        /// Identity stored in the mirror.
        mirror: InstanceId,
    },
    /// The runtime directory, or a lock file in it, may belong to another user.
    #[error(
        "{path} cannot be trusted: {found}. Another user of this machine may have created it. Remove it, or set a \
         directory of your own in `runtime_dir`, OSTLER_RUNTIME_DIR or XDG_RUNTIME_DIR"
    )]
    Untrusted {
        /// Path of the directory or file.
        path: PathBuf,
        /// Why it is not trusted.
        found: String,
    },
    /// A file or directory cannot be used.
    #[error("cannot use {path}: {source}. {}", crate::store::advice_for(source))]
    Location {
        /// Path of the file or directory.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// The database cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store returned an error.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn lock_holder(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
}
