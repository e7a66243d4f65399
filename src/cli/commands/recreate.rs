//! `ostler recreate`

use clap::builder::NonEmptyStringValueParser;

use crate::{
    api::workspace::WorkspaceView,
    cli::{
        client::workspace,
        failure::Failure,
        order::{Wait, request_order},
        output,
        session::Session,
        text::quoted,
    },
};

/// Replace a workspace's container with a new one that has the current settings
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The volumes are kept. Files outside /configs and /workspace, such as a home directory, are moved to the trash with
the old container. A stopped or hibernated workspace is started, together with the workspaces that were stopped
with it. `ostler ls` marks a workspace as drifted if its settings differ from those of its container.

Examples:
  ostler recreate builder")]
pub(in crate::cli) struct Args {
    /// Name, id or prefix of the id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: String,
    /// Return when the request is accepted, without waiting until the workspace is online
    #[arg(long)]
    no_wait: bool,
}

pub(in crate::cli) async fn run(session: &Session<'_>, args: &Args) -> Result<u8, Failure> {
    // Needed only for the notes; errors are ignored because the request itself reports them.
    let view = async || session.client.get::<WorkspaceView>(&workspace(&args.name)).await.ok();
    let before = view().await;
    let code =
        request_order(session, &args.name, "recreate", &(), Wait::goal_to_await(args.no_wait, Wait::Online))
            .await?;
    let of = |view: Option<WorkspaceView>| view.and_then(|view| view.container_id);
    if !args.no_wait && of(view().await) == of(before.clone()) {
        // No container was replaced: another start was carried out first, or Podman gives no answer. The response
        // reports it.
        return Ok(code);
    }
    let (are, started) =
        if args.no_wait { ("will be", "will be started") } else { ("are", "is started now") };
    output::note(&format!(
        "Files outside /configs and /workspace, such as a home directory, {are} moved to the trash with the old \
         container.",
    ));
    if let Some(before) = before.filter(|before| ["paused", "hibernated"].contains(&before.status.as_str())) {
        output::note(&format!(
            "The workspace was {}, and {started}: `ostler stop {}` stops it again.",
            before.status,
            quoted(&before.name)
        ));
    }
    Ok(code)
}
