//! `ostler serve`

use crate::cli::{failure::Failure, host::Host};

/// Run the daemon
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Logs go to standard error: as text on a terminal, as JSON otherwise (`log.format`).
SIGTERM or Ctrl-C stops the daemon; the workspaces' containers keep running. SIGHUP reloads the
configuration, like `ostler reload`.

Examples:
  ostler serve
  ostler --data-dir /srv/ostler serve
  OSTLER_LOG_LEVEL=debug ostler serve")]
pub(in crate::cli) struct Args;

pub(in crate::cli) async fn run(_: &Args, host: &dyn Host) -> Result<u8, Failure> {
    host.serve().await.map(|()| 0)
}
