//! `ostler why`

use clap::builder::NonEmptyStringValueParser;
use serde::Serialize;

use crate::{
    api::{event::EventView, workspace::WorkspaceView},
    cli::{
        client::workspace_even_removed,
        failure::Failure,
        output::Tone,
        readiness::note_if_not_ready,
        session::Session,
        text::{local, printable},
        timeline,
    },
};

use super::{events::recent, show::heading};

/// Explain a workspace's status by its events and their evidence
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Status changes, moves to the trash and refused requests of agents are recorded, with the evidence for each.

Examples:
  ostler why builder
  ostler why -v builder")]
pub(in crate::cli) struct Args {
    /// Name, id or prefix of the id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: String,
    /// Print every field of the events, with whole ids, and the log lines of each event
    #[arg(long, short)]
    verbose: bool,
    /// Number of events to print
    #[arg(
        long,
        short = 'n',
        value_name = "COUNT",
        default_value_t = 30,
        value_parser = clap::value_parser!(u32).range(1..),
        allow_negative_numbers = true
    )]
    limit: u32,
}

/// Output of `why --json`.
#[derive(Serialize)]
struct Why {
    workspace: WorkspaceView,
    /// Oldest first.
    events: Vec<EventView>,
}

pub(in crate::cli) async fn run(session: &Session<'_>, args: &Args) -> Result<u8, Failure> {
    let workspace: WorkspaceView = session.client.get(&workspace_even_removed(&args.name)).await?;
    let events = recent(session, Some(&workspace.id), args.limit).await?;
    if session.out.json() {
        session.out.value(&Why { workspace, events })?;
        return Ok(0);
    }
    heading(session, &workspace)?;
    if let Some(refused) = super::show::refused(&workspace.fields_refused) {
        session.out.line(&format!("  refused: {}", printable(&refused)))?;
    }
    if let Some(operation) = &workspace.operation {
        session.out.line(&format!("  in progress: {}", printable(operation)))?;
    }
    if let Some(at) = &workspace.restart_due_at {
        session.out.line(&format!("  restart: due at {}", local(at)))?;
    }
    session.out.line("")?;
    for event in &events {
        if args.verbose {
            print_all(session, event)?;
        } else {
            let time = session.out.paint(Tone::Dim, &local(&event.created_at));
            session.out.line(&format!("{time}  {}", timeline::brief(event)))?;
        }
    }
    if !args.verbose {
        print_newest_log(session, &events)?;
    }
    note_if_not_ready(session).await;
    Ok(0)
}

/// Prints an event with all fields, each on a line of its own, and its log lines.
fn print_all(session: &Session<'_>, event: &EventView) -> Result<(), Failure> {
    let described = timeline::describe(event);
    let time = session.out.paint(Tone::Dim, &described.time);
    session.out.line(&format!("{time}  {}", described.sentence))?;
    for (key, value) in &described.facts {
        session.out.line(&format!("{:21}{key}: {value}", ""))?;
    }
    if !described.log.is_empty() {
        session.out.line(&format!("{:21}last log lines:", ""))?;
        print_log(session, 23, &described.log)?;
    }
    Ok(())
}

/// Prints the log lines of the newest event that has any. They usually show why the container exited.
fn print_newest_log(session: &Session<'_>, events: &[EventView]) -> Result<(), Failure> {
    let described = events.iter().rev().map(timeline::describe).find(|event| !event.log.is_empty());
    let Some(described) = described else { return Ok(()) };
    session.out.line(&format!("\nLast log lines before {}:", described.time))?;
    print_log(session, 2, &described.log)
}

fn print_log(session: &Session<'_>, indent: usize, lines: &[String]) -> Result<(), Failure> {
    for line in lines {
        session.out.line(&session.out.paint(Tone::Dim, &format!("{:indent$}| {line}", "")))?;
    }
    Ok(())
}
