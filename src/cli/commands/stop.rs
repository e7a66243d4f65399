//! `ostler stop`

use super::order::{Wait, request_order};
use crate::cli::{Session, args::StopArgs, failure::Failure};

pub(in crate::cli) async fn run(session: &Session<'_>, args: &StopArgs) -> Result<u8, Failure> {
    request_order(session, &args.name, "stop", &(), Wait::goal_to_await(args.no_wait, Wait::Done)).await
}
