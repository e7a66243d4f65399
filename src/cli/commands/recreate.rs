//! `ostler recreate`

use super::order::{Wait, give, quoted};
use crate::{
    api::WorkspaceView,
    cli::{Session, args::RecreateArgs, client::workspace, failure::Failure, output},
};

pub(in crate::cli) async fn run(session: &Session<'_>, args: &RecreateArgs) -> Result<u8, Failure> {
    // Only for the note: whatever is wrong with the reference or the daemon, the order itself says it.
    let before = session.client.get::<WorkspaceView>(&workspace(&args.name)).await.ok();
    let code = give(session, &args.name, "recreate", &(), Wait::unless(args.no_wait, Wait::Online)).await?;
    output::note(
        "What was written outside /configs and /workspace, a home directory too, goes to the trash with the old \
         container.",
    );
    if let Some(before) = before.filter(|before| ["paused", "hibernated"].contains(&before.status.as_str())) {
        output::note(&format!(
            "It was {}, and is started now: `ostler stop {}` stops it again.",
            before.status,
            quoted(&before.name)
        ));
    }
    Ok(code)
}
