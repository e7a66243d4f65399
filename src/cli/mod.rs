//! The command line: parses arguments, sends requests to the daemon over its socket, and prints the responses.
//!
//! Of the other modules it uses only [`crate::api`], whose types the server uses too, and [`crate::domain`]. The few
//! commands that work without a daemon (`serve`, `config`, a dry run, the offline doctor) go through [`Host`], which
//! `main` implements. Commands must not depend on the daemon's modules directly: they could then read the database
//! without the daemon.

mod a2a;
pub mod args;
mod client;
mod commands;
mod failure;
mod frames;
mod host;
mod inputs;
mod order;
mod output;
mod readiness;
mod session;
mod spinner;
mod terminal;
mod text;
mod timeline;

use args::Cli;
pub use failure::{Exit, Failure};
pub use host::{Configuration, Host, Setting};
use output::Output;
pub use output::note;

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
    cli.command.run(out, host).await
}
