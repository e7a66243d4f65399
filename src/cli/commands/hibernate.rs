//! `ostler hibernate`

use super::order::{Wait, request_order_with};
use crate::cli::{Session, args::HibernateArgs, failure::Failure};

pub(in crate::cli) async fn run(session: &Session<'_>, args: &HibernateArgs) -> Result<u8, Failure> {
    let query = if args.force { &["force=true"][..] } else { &[] };
    request_order_with(
        session,
        &args.name,
        "hibernate",
        query,
        &(),
        Wait::goal_to_await(args.no_wait, Wait::Done),
    )
    .await
}
