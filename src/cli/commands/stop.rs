//! `ostler stop`

use clap::builder::NonEmptyStringValueParser;

use crate::cli::{
    failure::Failure,
    order::{Wait, request_order},
    session::Session,
};

/// Stop a workspace and all workspaces below it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The workspaces stay stopped until they are started. Their containers are kept, with their file systems.
`ostler start` also starts the workspaces that were stopped together with the given one.

Examples:
  ostler stop builder")]
pub(in crate::cli) struct Args {
    /// Name, id or prefix of the id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: String,
    /// Return when the request is accepted, without waiting until the container has stopped
    #[arg(long)]
    no_wait: bool,
}

pub(in crate::cli) async fn run(session: &Session<'_>, args: &Args) -> Result<u8, Failure> {
    request_order(session, &args.name, "stop", &(), Wait::goal_to_await(args.no_wait, Wait::Done)).await
}
