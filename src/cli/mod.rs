//! The command line: parses, asks the daemon over its socket, and shows the answers.
//!
//! It speaks the same [`crate::api`] types as the server and knows nothing below them. The few commands
//! that work without a daemon (`serve`, `config`, a dry run, the offline doctor) go through [`Host`],
//! which `main` implements: the arrow from here to the daemon would otherwise be one import away from
//! a client that looks into the database by itself.

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

/// What only the process that holds the daemon's code can do.
#[async_trait(?Send)]
pub trait Host {
    /// The daemon's socket.
    fn socket(&self) -> Result<PathBuf, Failure>;
    /// Runs the daemon until a signal ends it.
    async fn serve(&self) -> Result<(), Failure>;
    /// Plans the passes in this process; applies nothing.
    async fn dry_run(&self, passes: Vec<String>) -> Result<Vec<api::PassRun>, Failure>;
    /// Looks at what can be looked at without a daemon.
    async fn doctor(&self) -> Result<api::DoctorReport, Failure>;
    /// Takes a copied data directory for the one to go on with.
    async fn accept_copy(&self) -> Result<(), Failure>;
    /// The effective configuration.
    fn configuration(&self) -> Result<Configuration, Failure>;
    /// Where the configuration file is, or would be.
    fn config_file(&self) -> PathBuf;
    /// The commented file of `config init`.
    fn config_template(&self) -> String;
}

/// What `config show --json` prints, besides how the daemon differs.
#[derive(Clone, Debug, Serialize)]
pub struct Configuration {
    /// The file it was read from, if there is one.
    pub file: Option<PathBuf>,
    /// Every key.
    pub settings: Vec<Setting>,
}

/// A key of the configuration.
#[derive(Clone, Debug, Serialize)]
pub struct Setting {
    /// Such as `sweep.unknown_grace`.
    pub key: String,
    /// As written in TOML; null where nothing is set.
    pub value: Option<String>,
    /// `default`, `file:LINE`, the variable or the flag it came from.
    pub source: String,
}

/// What a command works with.
struct Session<'a> {
    client: Client,
    out: Output,
    host: &'a dyn Host,
}

/// Carries out one command. The number is the process's exit code: 0, or that of an `exec`ed command.
///
/// # Errors
/// With a [`Failure`] for [`Failure::report`] to print.
pub async fn run(cli: Cli, host: &dyn Host) -> Result<u8, Failure> {
    let json = cli.global.json;
    if json && !cli.command.has_json() {
        let why = "this command passes through what it is given: `--json` has no meaning here";
        return Err(Failure::new(Exit::Usage, why));
    }
    let out = Output::new(json);
    // Asked for only where it is needed: some commands have to work however broken the configuration is.
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
