//! `ostler man`

use std::{fs, path::PathBuf};

use anyhow::Context as _;
use clap::CommandFactory as _;

use crate::cli::{args::Cli, failure::Failure, output::Output};

/// Print or write the manual pages
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ostler man | man -l -
  ostler man --dir /usr/local/share/man/man1")]
pub(in crate::cli) struct Args {
    /// Write all pages to this directory instead of printing the main page
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(in crate::cli) fn run(out: Output, args: &Args) -> Result<u8, Failure> {
    let Some(directory) = &args.dir else {
        let mut page = Vec::new();
        clap_mangen::Man::new(Cli::command()).render(&mut page).context("the page cannot be rendered")?;
        out.bytes(&page)?;
        return Ok(0);
    };
    let failed = || format!("the pages cannot be written to {}", directory.display());
    fs::create_dir_all(directory).with_context(failed)?;
    clap_mangen::generate_to(Cli::command(), directory).with_context(failed)?;
    Ok(0)
}
