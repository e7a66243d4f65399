//! What commands need from the process that runs them.

use std::path::PathBuf;

use async_trait::async_trait;
use serde::Serialize;

use super::failure::Failure;
use crate::api;

/// Functions that need the daemon's own code in this process.
#[async_trait(?Send)]
pub trait Host {
    /// Path of the daemon's socket.
    fn socket(&self) -> Result<PathBuf, Failure>;
    /// Runs the daemon until a signal ends it.
    async fn serve(&self) -> Result<(), Failure>;
    /// Plans the passes in this process; applies nothing.
    async fn dry_run(&self, passes: Vec<String>) -> Result<Vec<api::sweep::PassRun>, Failure>;
    /// Runs the checks that need no running daemon.
    async fn doctor(&self) -> Result<api::doctor::DoctorReport, Failure>;
    /// Accepts a data directory that is a copy, so that the daemon can be started with it.
    async fn accept_copy(&self) -> Result<(), Failure>;
    /// The effective configuration.
    fn configuration(&self) -> Result<Configuration, Failure>;
    /// Path of the configuration file, whether or not it exists.
    fn config_file(&self) -> PathBuf;
    /// Content of the commented file that `config init` writes.
    fn config_template(&self) -> String;
}

/// The effective configuration, as in `config show --json`.
#[derive(Clone, Debug, Serialize)]
pub struct Configuration {
    /// The file that the configuration was read from; `None` if it does not exist.
    pub file: Option<PathBuf>,
    /// All keys, with their values.
    pub settings: Vec<Setting>,
}

/// A key of the configuration.
#[derive(Clone, Debug, Serialize)]
pub struct Setting {
    /// Dotted path, such as `sweep.unknown_grace`.
    pub key: String,
    /// The value in TOML syntax; null if none is set.
    pub value: Option<String>,
    /// `default`, `file:LINE`, or the variable or flag that set the value.
    pub source: String,
}
