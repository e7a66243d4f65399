//! `ostler undelete`

use super::order::{Wait, quoted, request_order};
use crate::{
    api::order::Undelete,
    cli::{Session, args::UndeleteArgs, failure::Failure, output},
};

pub(in crate::cli) async fn run(session: &Session<'_>, args: UndeleteArgs) -> Result<u8, Failure> {
    let wait = Wait::goal_to_await(args.no_wait, Wait::Done);
    let name = quoted(args.new_name.as_deref().unwrap_or(&args.name));
    let code = request_order(
        session,
        &args.name,
        "undelete",
        &Undelete { name: args.new_name, only: args.only },
        wait,
    )
    .await?;
    output::note(&format!("`ostler start {name}` starts it."));
    Ok(code)
}
