//! `ostler restart`

use super::order::{Wait, request_order};
use crate::cli::{Session, args::RestartArgs, failure::Failure};

pub(in crate::cli) async fn run(session: &Session<'_>, args: &RestartArgs) -> Result<u8, Failure> {
    request_order(session, &args.name, "restart", &(), Wait::goal_to_await(args.no_wait, Wait::Online)).await
}
