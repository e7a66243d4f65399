//! The parser of the command line, with the options of every command.

use std::path::PathBuf;

use clap::{Args, Parser};

use super::commands::Command;

/// Manage long-lived, containerised agent workspaces on this machine.
#[derive(Debug, Parser)]
#[command(name = "ostler", version, max_term_width = 100, after_help = AFTER_HELP)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// The command.
    #[command(subcommand)]
    pub(super) command: Command,
}

const AFTER_HELP: &str = "\
Commands accept a workspace's name, its id, or a prefix of its id.

Examples:
  ostler serve                              run the daemon
  ostler create builder --image agent:1     create a workspace and wait until it is online
  ostler ls                                 list the workspaces
  ostler shell builder                      open a shell in the container
  ostler why builder                        explain the workspace's status

Exit codes:
  0 success   1 failed   2 invalid usage, input or configuration   3 not found
  4 not possible in the current state   5 the daemon does not answer";

/// Options of every command.
#[derive(Debug, Args)]
pub struct Global {
    /// Configuration file; `ostler config check` prints which file is read
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub config: Option<PathBuf>,
    /// Data directory, which contains the registry and the daemon's socket
    #[arg(long, global = true, value_name = "DIR", help_heading = "Global options")]
    pub data_dir: Option<PathBuf>,
    /// Print JSON; existing fields keep their meaning in later versions
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn cli_definition_passes_clap_debug_assertions() {
        Cli::command().debug_assert();
    }
}
