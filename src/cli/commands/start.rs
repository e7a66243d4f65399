//! `ostler start`

use super::order::{Wait, request_order};
use crate::{
    api::order::Start,
    cli::{Session, args::StartArgs, failure::Failure},
};

pub(in crate::cli) async fn run(session: &Session<'_>, args: &StartArgs) -> Result<u8, Failure> {
    let wait = Wait::goal_to_await(args.no_wait, Wait::Online);
    request_order(session, &args.name, "start", &Start { new_volume: args.new_volume }, wait).await
}
