//! `ostler recreate`

use super::order::{Wait, give};
use crate::cli::{Session, args::RecreateArgs, failure::Failure, output};

pub(in crate::cli) async fn run(session: &Session<'_>, args: &RecreateArgs) -> Result<u8, Failure> {
    let code = give(session, &args.name, "recreate", &(), Wait::unless(args.no_wait, Wait::Online)).await?;
    output::note(
        "What was written outside /configs and /workspace, a home directory too, goes to the trash with the old \
         container.",
    );
    Ok(code)
}
