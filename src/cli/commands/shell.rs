//! `ostler shell`

use crate::{
    api::exec::CreateExec,
    cli::{Session, args::ShellArgs, failure::Failure},
};

use super::exec::execute;

/// Runs `sh`, because every image with a shell has this one.
pub(in crate::cli) async fn run(session: &Session<'_>, args: ShellArgs) -> Result<u8, Failure> {
    let request = CreateExec {
        command: vec!["sh".to_owned()],
        tty: true,
        stdin: true,
        user: args.user,
        ..CreateExec::default()
    };
    execute(session, &args.name, request).await
}
