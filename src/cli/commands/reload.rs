//! `ostler reload`

use super::config;
use crate::{
    api::configuration::{ConfigDifference, Reloaded},
    cli::{failure::Failure, output::Output, session::Session},
};

/// Make the daemon reload its configuration
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Runtimes, access, `[external]`, restart budgets, grace periods, retention times, the size of new
logs and the log level apply at once, to everything that begins after the reload. Other changes,
such as ports, addresses, directories and the engine's socket, apply only after a restart of the
daemon; the command lists them. A configuration with an error changes nothing. SIGHUP has the same
effect, but the daemon writes the result to its log.

Examples:
  ostler config show                compare the file with the running daemon
  ostler reload")]
pub(in crate::cli) struct Args;

pub(in crate::cli) async fn run(session: &Session<'_>, _: &Args) -> Result<u8, Failure> {
    let reloaded: Reloaded = session.client.post("/reload", &()).await?;
    let out = session.out;
    if out.json() {
        out.value(&reloaded)?;
        return Ok(0);
    }
    let Reloaded { file, applied, waiting } = reloaded;
    let file = file.map_or_else(|| "no file".to_owned(), |file| format!("file: {}", file.display()));
    if applied.is_empty() && waiting.is_empty() {
        out.line(&format!("nothing has changed, {file}"))?;
        return Ok(0);
    }
    out.line(&format!("reloaded, {file}"))?;
    list(out, "Applied now:", ["KEY", "BEFORE", "NOW"], &applied)?;
    let title = "Not applied until the daemon is restarted (containers keep running):";
    list(out, title, ["KEY", "DAEMON", "CONFIGURED"], &waiting)?;
    Ok(0)
}

fn list(out: Output, title: &str, head: [&str; 3], changes: &[ConfigDifference]) -> Result<(), Failure> {
    if changes.is_empty() {
        return Ok(());
    }
    out.line("")?;
    out.line(title)?;
    out.line("")?;
    let rows = changes.iter().map(|one| {
        let [before, after] = config::values(one);
        [one.key.clone().into(), before, after]
    });
    out.table(head, rows.collect())
}
