//! `ostler recreate`

use super::order::{Wait, give};
use crate::cli::{Session, args::RecreateArgs, failure::Failure};

pub(in crate::cli) async fn run(session: &Session<'_>, args: &RecreateArgs) -> Result<u8, Failure> {
    give(session, &args.name, "recreate", &(), Wait::unless(args.no_wait, Wait::Online)).await
}
