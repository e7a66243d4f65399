//! `ostler start`

use clap::builder::NonEmptyStringValueParser;

use crate::{
    api::order::Start,
    cli::{
        failure::Failure,
        order::{Wait, request_order},
        session::Session,
    },
};

/// Start a stopped or failed workspace, and those stopped with it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Waits until the workspace is online, or reports why it is not.

Examples:
  ostler start builder
  ostler start builder --new-volume     start with an empty volume after the old one was lost")]
pub(in crate::cli) struct Args {
    /// Name, id or prefix of the id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: String,
    /// If the work volume is missing, create a new, empty work volume
    #[arg(long)]
    new_volume: bool,
    /// Return when the request is accepted, without waiting until the workspace is online
    #[arg(long)]
    no_wait: bool,
}

pub(in crate::cli) async fn run(session: &Session<'_>, args: &Args) -> Result<u8, Failure> {
    let wait = Wait::goal_to_await(args.no_wait, Wait::Online);
    request_order(session, &args.name, "start", &Start { new_volume: args.new_volume }, wait).await
}
