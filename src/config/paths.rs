//! The usual paths of this platform.

use std::path::{Path, PathBuf};

/// The configuration file that is used if neither a flag nor an environment variable names one.
#[must_use]
pub(super) fn default_file() -> PathBuf {
    project_dirs()
        .map_or_else(|| "/etc/ostler/config.toml".into(), |dirs| dirs.config_dir().join("config.toml"))
}

pub(super) fn default_data_dir() -> PathBuf {
    project_dirs().map_or_else(|| "/var/lib/ostler".into(), |dirs| dirs.data_dir().to_owned())
}

pub(super) fn default_runtime_dir() -> PathBuf {
    let user = rustix::process::getuid();
    if user.is_root() {
        return "/run/ostler".into();
    }
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| Path::new(dir).is_absolute()) {
        Some(dir) => Path::new(&dir).join("ostler"),
        None => std::env::temp_dir().join(format!("ostler-{user}")),
    }
}

fn project_dirs() -> Option<directories::ProjectDirs> {
    directories::ProjectDirs::from("", "", "ostler")
}
