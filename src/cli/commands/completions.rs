//! `ostler completions`

use clap::CommandFactory as _;

use crate::cli::{args::Cli, failure::Failure, output::Output};

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ostler completions bash > /etc/bash_completion.d/ostler
  ostler completions fish > ~/.config/fish/completions/ostler.fish")]
pub(in crate::cli) struct Args {
    /// Shell for which to print the script
    shell: clap_complete::Shell,
}

pub(in crate::cli) fn run(out: Output, args: &Args) -> Result<u8, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "ostler", &mut script);
    out.bytes(&script)?;
    Ok(0)
}
