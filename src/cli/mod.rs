//! The command line: parses arguments, sends requests to the daemon over its socket, and prints the responses.
//!
//! Of the other modules it uses only [`crate::api`], whose types the server uses too, and [`crate::domain`]. The few
//! commands that work without a daemon (`serve`, `config`, a dry run, the offline doctor) go through [`Host`], which
//! `main` implements. Commands must not depend on the daemon's modules directly: they could then read the database
//! without the daemon.

pub mod args;
mod client;
mod commands;
mod failure;
mod frames;
mod output;
mod spinner;
mod terminal;
mod text;

use std::path::PathBuf;

use async_trait::async_trait;
use serde::Serialize;

use crate::api;
use args::{Cli, Command};
use client::Client;
use commands as c;
pub use failure::{Exit, Failure};
use output::Output;
pub use output::note;

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

/// The dependencies of a command.
struct Session<'a> {
    client: Client,
    out: Output,
    host: &'a dyn Host,
}

/// Runs one command. Returns the process's exit code: 0, or the exit code of the command that `exec` ran.
///
/// # Errors
/// A [`Failure`], which [`Failure::report`] prints.
pub async fn run(cli: Cli, host: &dyn Host) -> Result<u8, Failure> {
    let json = cli.global.json;
    if json && !cli.command.has_json() {
        let why = "this command does not support `--json`";
        return Err(Failure::new(Exit::Usage, why));
    }
    let out = Output::new(json);
    // Created only by the commands that need it: the others have to work with an invalid configuration.
    let session = || Ok::<_, Failure>(Session { client: Client::new(host.socket()?), out, host });
    match cli.command {
        Command::Serve => host.serve().await.map(|()| 0),
        Command::Create(args) => c::create::run(&session()?, *args).await,
        Command::Ls(args) => c::ls::run(&session()?, &args).await,
        Command::Show(args) => c::show::run(&session()?, &args).await,
        Command::Logs(args) => c::logs::run(&session()?, &args).await,
        Command::Exec(args) => c::exec::run(&session()?, args).await,
        Command::Shell(args) => c::shell::run(&session()?, args).await,
        Command::Start(args) => c::start::run(&session()?, &args).await,
        Command::Stop(args) => c::stop::run(&session()?, &args).await,
        Command::Hibernate(args) => c::hibernate::run(&session()?, &args).await,
        Command::Wake(args) => c::wake::run(&session()?, &args).await,
        Command::Message(args) => c::message::run(&session()?, args).await,
        Command::Set(args) => c::set::run(&session()?, *args).await,
        Command::Restart(args) => c::restart::run(&session()?, &args).await,
        Command::Recreate(args) => c::recreate::run(&session()?, &args).await,
        Command::Rm(args) => c::rm::run(&session()?, &args).await,
        Command::Undelete(args) => c::undelete::run(&session()?, args).await,
        Command::Trash(args) => c::trash::run(&session()?, args.command).await,
        Command::Adopt(args) => c::adopt::run(&session()?, args).await,
        Command::Token(args) => c::token::run(&session()?, args.command).await,
        Command::Sweep(args) => c::sweep::run(&session()?, args.command).await,
        Command::Events(args) => c::events::run(&session()?, &args).await,
        Command::Why(args) => c::why::run(&session()?, &args).await,
        Command::Doctor(args) => c::doctor::run(&session()?, &args).await,
        Command::Config(args) => c::config::run(out, host, args.command).await,
        Command::Reload => c::reload::run(&session()?).await,
        Command::Completions(args) => c::completions::run(out, &args),
        Command::Man(args) => c::man::run(out, &args),
    }
}
