//! `ostler wake`

use super::order::{Wait, request_order};
use crate::cli::{Session, args::WakeArgs, failure::Failure};

pub(in crate::cli) async fn run(session: &Session<'_>, args: &WakeArgs) -> Result<u8, Failure> {
    request_order(session, &args.name, "wake", &(), Wait::goal_to_await(args.no_wait, Wait::Online)).await
}
