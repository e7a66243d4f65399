//! `ostler completions`

use clap::CommandFactory as _;

use crate::cli::{
    args::{Cli, CompletionsArgs},
    failure::Failure,
    output::Output,
};

pub(in crate::cli) fn run(out: Output, args: &CompletionsArgs) -> Result<u8, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "ostler", &mut script);
    out.bytes(&script)?;
    Ok(0)
}
