//! `ostler shell`

use clap::builder::NonEmptyStringValueParser;

use crate::{
    api::exec::CreateExec,
    cli::{failure::Failure, session::Session},
};

use super::exec::execute;

/// Open a shell in a workspace's container
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ostler shell builder
  ostler shell --user 0:0 builder      as root in the container")]
pub(in crate::cli) struct Args {
    /// Name, id or prefix of the id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: String,
    /// User to run as, such as `0:0` [default: the agent's user]
    #[arg(long, short)]
    user: Option<String>,
}

/// Runs `sh`, because every image with a shell has this one.
pub(in crate::cli) async fn run(session: &Session<'_>, args: Args) -> Result<u8, Failure> {
    let request = CreateExec {
        command: vec!["sh".to_owned()],
        tty: true,
        stdin: true,
        user: args.user,
        ..CreateExec::default()
    };
    execute(session, &args.name, request).await
}
