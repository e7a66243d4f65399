//! `ostler restart`

use clap::builder::NonEmptyStringValueParser;

use crate::cli::{
    failure::Failure,
    order::{Wait, request_order},
    session::Session,
};

/// Restart a workspace, with a new token
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A stopped workspace is started, together with the workspaces that were stopped with it.

Examples:
  ostler restart builder")]
pub(in crate::cli) struct Args {
    /// Name, id or prefix of the id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: String,
    /// Return when the request is accepted, without waiting until the workspace is online
    #[arg(long)]
    no_wait: bool,
}

pub(in crate::cli) async fn run(session: &Session<'_>, args: &Args) -> Result<u8, Failure> {
    request_order(session, &args.name, "restart", &(), Wait::goal_to_await(args.no_wait, Wait::Online)).await
}
