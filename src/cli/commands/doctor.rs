//! `ostler doctor`

use crate::{
    api::doctor::DoctorReport,
    cli::{
        failure::{Exit, Failure},
        output::{self, Tone},
        session::Session,
        text::{count, printable},
    },
};

/// Check this installation for problems and print how to fix them
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The exit code is 1 if a check fails; warnings do not count. Also works while the daemon is stopped.

Examples:
  ostler doctor
  ostler doctor --accept-engine     continue with this engine or storage
  ostler doctor --accept-copy       continue with this copied data directory")]
pub(in crate::cli) struct Args {
    /// Accept the current Podman engine and storage as the one that holds the workspaces
    #[arg(long)]
    accept_engine: bool,
    /// Accept this copied data directory as the one to continue with; the daemon must be stopped
    #[arg(long, conflicts_with = "accept_engine")]
    accept_copy: bool,
}

pub(in crate::cli) async fn run(session: &Session<'_>, args: &Args) -> Result<u8, Failure> {
    if args.accept_copy {
        session.host.accept_copy().await?;
        output::note(
            "This data directory is accepted. Start the daemon with `ostler serve`. The copy may be out of date, so \
             nothing is changed until you decide: `ostler adopt --dry-run` shows the differences, `ostler adopt --all` \
             adopts the containers and pauses workspaces whose container does not run.",
        );
        return Ok(0);
    }
    let report = if args.accept_engine {
        session.client.post("/doctor/accept-engine", &()).await?
    } else {
        examine(session).await?
    };
    if session.out.json() {
        session.out.value(&report)?;
    } else {
        print(session, &report)?;
    }
    match report.checks.iter().filter(|check| check.verdict == "fail").count() {
        0 => Ok(0),
        failed => Err(Failure::new(Exit::Failed, format!("{} failed", count(failed, "check", "checks")))),
    }
}

async fn examine(session: &Session<'_>) -> Result<DoctorReport, Failure> {
    match session.client.get("/doctor").await {
        Err(failure) if failure.is_unreachable() => {
            output::note("The daemon does not answer; checking without it.");
            session.host.doctor().await
        }
        other => other,
    }
}

fn print(session: &Session<'_>, report: &DoctorReport) -> Result<(), Failure> {
    let width = report.checks.iter().map(|check| check.name.chars().count()).max().unwrap_or(0);
    for check in &report.checks {
        let tone = match check.verdict.as_str() {
            "ok" => Tone::Good,
            "warn" => Tone::Warn,
            _ => Tone::Bad,
        };
        let verdict = session.out.paint(tone, &format!("{:<4}", check.verdict));
        session.out.line(&format!("{verdict}  {:<width$}  {}", check.name, printable(&check.found)))?;
        for (index, line) in check.advice.iter().flat_map(|advice| advice.lines()).enumerate() {
            let arrow = if index == 0 { "→" } else { " " };
            session.out.line(&format!("{:width$}        {arrow} {}", "", printable(line)))?;
        }
    }
    Ok(())
}
