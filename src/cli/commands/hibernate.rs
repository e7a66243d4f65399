//! `ostler hibernate`

use clap::builder::NonEmptyStringValueParser;

use crate::cli::{
    failure::Failure,
    order::{Wait, request_order_with},
    session::Session,
};

/// Hibernate a workspace; a message or `wake` wakes it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The container is stopped and kept, so that waking is fast. Refused while the agent has active tasks or requests.
A workspace with `--hibernate-after` hibernates automatically.

Examples:
  ostler hibernate builder
  ostler hibernate builder --force")]
pub(in crate::cli) struct Args {
    /// Name, id or prefix of the id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: String,
    /// Hibernate even while the agent has active tasks or requests
    #[arg(long)]
    force: bool,
    /// Return when the request is accepted, without waiting until the workspace is hibernated
    #[arg(long)]
    no_wait: bool,
}

pub(in crate::cli) async fn run(session: &Session<'_>, args: &Args) -> Result<u8, Failure> {
    let query = if args.force { &["force=true"][..] } else { &[] };
    request_order_with(
        session,
        &args.name,
        "hibernate",
        query,
        &(),
        Wait::goal_to_await(args.no_wait, Wait::Done),
    )
    .await
}
