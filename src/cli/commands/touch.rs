//! `ostler touch`

use clap::builder::NonEmptyStringValueParser;

use crate::cli::{
    Session,
    failure::Failure,
    order::{Wait, request_order},
};

/// Postpone the hibernation of an idle workspace
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The command counts as activity: the idle time of the workspace starts again.

Examples:
  ostler touch builder")]
pub(in crate::cli) struct Args {
    /// Name, id or prefix of the id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: String,
}

pub(in crate::cli) async fn run(session: &Session<'_>, args: &Args) -> Result<u8, Failure> {
    request_order(session, &args.name, "touch", &(), Wait::Done).await
}
