//! `ostler trash`

use std::io::{self, IsTerminal as _};

use clap::builder::NonEmptyStringValueParser;

use crate::{
    api::trash::{EmptyTrash, TrashOutcome, TrashView},
    cli::{
        client::segment,
        failure::{Exit, Failure},
        output::{self, Cell, Tone},
        session::Session,
        text::{self, count, printable},
    },
};

/// List, restore or delete the containers and volumes in the trash
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The subcommand.
    #[command(subcommand)]
    command: TrashCommand,
}

/// A command about the trash.
#[derive(Debug, clap::Subcommand)]
enum TrashCommand {
    /// List the entries in the trash and until when they are kept
    #[command(visible_alias = "list")]
    Ls,
    /// Restore an entry
    #[command(after_help = "\
Examples:
  ostler trash restore 0b5e
  ostler trash restore builder")]
    Restore {
        /// Id of the entry, a prefix of it, or the workspace's name
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        entry: String,
    },
    /// Delete entries permanently
    #[command(after_help = "\
Asks for confirmation on a terminal; elsewhere `--yes` is required.

Examples:
  ostler trash empty
  ostler trash empty 0b5e builder --yes")]
    Empty {
        /// Ids of entries, prefixes of ids, or workspaces' names [default: all entries]
        entries: Vec<String>,
        /// Do not ask for confirmation
        #[arg(long, short)]
        yes: bool,
    },
}

pub(in crate::cli) async fn run(session: &Session<'_>, args: Args) -> Result<u8, Failure> {
    match args.command {
        TrashCommand::Ls => ls(session).await,
        TrashCommand::Restore { entry } => restore(session, &entry).await,
        TrashCommand::Empty { entries, yes } => empty(session, entries, yes).await,
    }
}

async fn ls(session: &Session<'_>) -> Result<u8, Failure> {
    let entries: Vec<TrashView> = session.client.get("/trash").await?;
    if session.out.json() {
        session.out.value(&entries)?;
    } else if entries.is_empty() {
        output::note("The trash is empty.");
    } else {
        show(session, &entries)?;
    }
    Ok(0)
}

fn show(session: &Session<'_>, entries: &[TrashView]) -> Result<(), Failure> {
    let rows = entries.iter().map(row).collect();
    session.out.table(["ID", "WORKSPACE", "REASON", "STATE", "KEPT UNTIL", "HOLDS", "SIZE", "EVIDENCE"], rows)
}

fn row(entry: &TrashView) -> [Cell; 8] {
    let container = entry.container_id.as_ref().map(|_| "container".to_owned());
    let volumes = entry.volumes.len();
    let volumes = (volumes > 0).then(|| count(volumes, "volume", "volumes"));
    let holds: Vec<_> = [container, volumes].into_iter().flatten().collect();
    [
        text::short(&entry.id).into(),
        printable(&entry.workspace_name).into(),
        entry.reason.as_str().into(),
        entry.state.as_str().into(),
        text::local(&entry.keep_until).into(),
        holds.join(", ").into(),
        entry.size_bytes.map(text::size).unwrap_or_default().into(),
        Cell::toned(Tone::Dim, printable(&entry.evidence)),
    ]
}

/// What was done, or by which operation it will be done.
fn detail(outcome: &TrashOutcome) -> String {
    let detail = printable(&outcome.detail);
    match outcome.operation_id.filter(|_| outcome.accepted) {
        Some(id) => format!(
            "accepted as operation {id}: {detail}. `ostler operations cancel {id}` may still prevent it"
        ),
        None => detail,
    }
}

async fn restore(session: &Session<'_>, entry: &str) -> Result<u8, Failure> {
    let outcome: TrashOutcome =
        session.client.post(&format!("/trash/{}/restore", segment(entry)), &()).await?;
    if session.out.json() {
        session.out.value(&outcome)?;
    } else if outcome.done || outcome.accepted {
        session.out.line(&format!("{}: {}", printable(&outcome.workspace_name), detail(&outcome)))?;
    }
    if outcome.done || outcome.accepted {
        return Ok(0);
    }
    let why =
        format!("{} was not restored: {}", printable(&outcome.workspace_name), printable(&outcome.detail));
    Err(Failure::new(Exit::Failed, why))
}

async fn empty(session: &Session<'_>, entries: Vec<String>, yes: bool) -> Result<u8, Failure> {
    if !yes && !agreed(session, &entries).await? {
        output::note("Nothing was deleted.");
        return Ok(0);
    }
    let outcomes: Vec<TrashOutcome> = session.client.post("/trash/empty", &EmptyTrash { entries }).await?;
    let kept = outcomes.iter().filter(|outcome| !outcome.done && !outcome.accepted).count();
    if session.out.json() {
        session.out.value(&outcomes)?;
    } else {
        for outcome in &outcomes {
            let name = printable(&outcome.workspace_name);
            session.out.line(&format!("{}  {name}: {}", text::short(&outcome.id), detail(outcome)))?;
        }
        if outcomes.is_empty() {
            output::note("The trash was empty.");
        }
    }
    if kept == 0 {
        return Ok(0);
    }
    Err(Failure::new(Exit::Failed, format!("{} not deleted", count(kept, "entry was", "entries were"))))
}

/// Lists the entries to be deleted and asks for confirmation.
///
/// # Errors
/// A usage error without a terminal or with `--json`, because no question can be asked then.
async fn agreed(session: &Session<'_>, entries: &[String]) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() || session.out.json() {
        let why =
            "permanent deletion must be confirmed, but ostler cannot ask without a terminal or with `--json`";
        return Err(Failure::new(Exit::Usage, why).next("add `--yes`"));
    }
    let all: Vec<TrashView> = session.client.get("/trash").await?;
    let named = |entry: &TrashView| {
        entries.is_empty()
            || entries.iter().any(|name| entry.id.starts_with(name.as_str()) || entry.workspace_name == *name)
    };
    let chosen: Vec<_> = all.into_iter().filter(named).collect();
    if chosen.is_empty() {
        // No entry matches: the daemon reports that when it gets the request.
        return Ok(true);
    }
    show(session, &chosen)?;
    Ok(output::confirm(&format!("Permanently delete {}?", count(chosen.len(), "entry", "entries"))))
}
