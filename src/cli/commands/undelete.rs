//! `ostler undelete`

use super::order::{Wait, give};
use crate::{
    api::Undelete,
    cli::{Session, args::UndeleteArgs, failure::Failure},
};

pub(in crate::cli) async fn run(session: &Session<'_>, args: UndeleteArgs) -> Result<u8, Failure> {
    let wait = Wait::unless(args.no_wait, Wait::Done);
    give(session, &args.name, "undelete", &Undelete { name: args.new_name }, wait).await
}
