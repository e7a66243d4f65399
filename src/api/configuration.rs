//! The daemon's configuration: its values, their difference from the file, and a reload.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `GET /config`: the configuration in force, and how it differs from the file's current content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningConfig {
    /// The file that the daemon read; null if there was none.
    pub file: Option<PathBuf>,
    /// Every key with the value in force.
    pub settings: Vec<RunningSetting>,
    /// The keys whose value in the file differs from the value in force.
    pub differences: Vec<ConfigDifference>,
    /// Why the file cannot be read or used now. The daemon keeps its values, but would refuse to start with this file.
    pub problem: Option<String>,
}

/// A key of the daemon's configuration and its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningSetting {
    /// Name of the key, such as `sweep.unknown_grace`.
    pub key: String,
    /// The value in TOML syntax, without the values of environment variables; null if unset.
    pub value: Option<String>,
}

/// A key whose value in the file differs from the value in the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigDifference {
    /// Name of the key, such as `sweep.unknown_grace`; `runtimes.NAME` if the runtime exists only in the daemon or only
    /// in the file.
    pub key: String,
    /// Value in the daemon in TOML syntax; null if unset. Values of environment variables are hidden, so `running` and
    /// `configured` may look equal.
    pub running: Option<String>,
    /// Value in the file, or the default if the file does not set the key.
    pub configured: Option<String>,
    /// The action after which the value in the file takes effect: `reload` or `restart`.
    pub applied_by: String,
}

/// Response to `POST /reload`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// The file that was read; null if there is none.
    pub file: Option<PathBuf>,
    /// Keys that were applied, with the old value (`running`) and the new one (`configured`).
    pub applied: Vec<ConfigDifference>,
    /// Keys that take effect only after a restart of the daemon.
    pub waiting: Vec<ConfigDifference>,
}
