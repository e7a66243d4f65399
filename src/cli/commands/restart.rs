//! `ostler restart`

use clap::builder::NonEmptyStringValueParser;

use crate::{
    api::workspace::WorkspaceView,
    cli::{
        client::workspace,
        failure::Failure,
        order::{Wait, request_order},
        output,
        session::Session,
    },
};

/// Restart a workspace, with a new token
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A stopped workspace is started, together with the workspaces that were stopped with it. If settings of the container
were changed with `ostler set`, a new container replaces it, as with `ostler recreate`.

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
    // Needed only for the note; errors are ignored because the request itself reports them.
    let before = session.client.get::<WorkspaceView>(&workspace(&args.name)).await.ok();
    let goal = Wait::goal_to_await(args.no_wait, Wait::Online);
    let code = request_order(session, &args.name, "restart", &(), goal).await?;
    if before.is_some_and(|before| before.drifted) {
        output::note(
            "Its settings had changed, so a new container replaces the old one. Files outside /configs and /workspace, \
             such as a home directory, are moved to the trash with the old container.",
        );
    }
    Ok(code)
}
