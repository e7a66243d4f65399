//! `ostler man`

use std::fs;

use anyhow::Context as _;
use clap::CommandFactory as _;

use crate::cli::{
    args::{Cli, ManArgs},
    failure::Failure,
    output::Output,
};

pub(in crate::cli) fn run(out: Output, args: &ManArgs) -> Result<u8, Failure> {
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
