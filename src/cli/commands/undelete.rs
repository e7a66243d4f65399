//! `ostler undelete`

use clap::builder::NonEmptyStringValueParser;

use crate::{
    api::order::Undelete,
    cli::{
        failure::Failure,
        order::{Wait, request_order},
        output,
        session::Session,
        text::quoted,
    },
};

/// Restore a removed workspace
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Restores the workspace, and the workspaces that `rm --cascade` removed with it, in the stopped state.
`ostler start` starts them.

Examples:
  ostler undelete builder
  ostler undelete builder --only              without the workspaces below it
  ostler undelete 6f1c --name old-builder     if the name is in use again")]
pub(in crate::cli) struct Args {
    /// Name, id or prefix of the id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: String,
    /// Restore the workspace under another name
    #[arg(long = "name", value_name = "NEW")]
    new_name: Option<String>,
    /// Do not restore the workspaces that were removed together with this one
    #[arg(long)]
    only: bool,
    /// Return when the request is accepted, without waiting until the workspace is restored
    #[arg(long)]
    no_wait: bool,
}

pub(in crate::cli) async fn run(session: &Session<'_>, args: Args) -> Result<u8, Failure> {
    let wait = Wait::goal_to_await(args.no_wait, Wait::Done);
    let name = quoted(args.new_name.as_deref().unwrap_or(&args.name));
    let code = request_order(
        session,
        &args.name,
        "undelete",
        &Undelete { name: args.new_name, only: args.only },
        wait,
    )
    .await?;
    output::note(&format!("`ostler start {name}` starts it."));
    Ok(code)
}
