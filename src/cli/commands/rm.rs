//! `ostler rm`

use std::io::{self, IsTerminal as _};

use clap::builder::NonEmptyStringValueParser;
use hyper::{Method, StatusCode};

use crate::{
    api::workspace::{RemoveOutcome, WorkspaceView},
    cli::{
        client::{self, NOTHING, workspace},
        failure::{Exit, Failure},
        output,
        session::Session,
        spinner,
        text::{count, printable, quoted},
    },
};

/// Remove a workspace; `undelete` restores it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Container and volumes are moved to the trash and kept for `sweep.trash_retention` (default: 14 days).
A workspace with workspaces below it is removed only with `--cascade`. `--purge` asks for confirmation on a terminal.

Examples:
  ostler rm builder
  ostler rm --cascade builder
  ostler undelete builder")]
pub(in crate::cli) struct Args {
    /// Name, id or prefix of the id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: String,
    /// Also remove all workspaces below this one
    #[arg(long)]
    cascade: bool,
    /// Delete container and volumes immediately and permanently
    #[arg(long)]
    purge: bool,
    /// Do not ask for confirmation
    #[arg(long, short)]
    yes: bool,
}

pub(in crate::cli) async fn run(session: &Session<'_>, args: &Args) -> Result<u8, Failure> {
    if args.purge && !args.yes && io::stdin().is_terminal() && !session.out.json() {
        // If the workspace does not exist, the command fails before it asks for confirmation.
        let _there: WorkspaceView =
            session.client.ask(Method::GET, &workspace(&args.name), NOTHING).await?.read()?;
        let below = if args.cascade { " and everything below it" } else { "" };
        if !output::confirm(&format!("Permanently delete {}{below}, including volumes?", args.name)) {
            output::note("Nothing was removed.");
            return Ok(0);
        }
    }
    let path = format!("{}?confirm={}&purge={}", workspace(&args.name), args.cascade, args.purge);
    let order = session.client.ask(Method::DELETE, &path, NOTHING);
    let answer = spinner::while_carried_out(session, &args.name, order).await?;
    let outcome = read(&answer)?;
    let children = !outcome.children.is_empty() && outcome.status != "removed";
    let failure = if children {
        Some(has_children(args, &outcome))
    } else {
        outcome.purge_error.as_deref().map(|why| not_purged(args, &outcome, why))
    };
    if session.out.json() {
        session.out.value(&outcome)?;
    } else if failure.is_none() {
        session.out.line(&summary_of(args, &outcome))?;
    }
    failure.map_or(Ok(0), Err)
}

/// Parses the response. A 409 either lists the children that need confirmation, or is an error with a message.
fn read(answer: &client::Answer) -> Result<RemoveOutcome, Failure> {
    if answer.status == StatusCode::CONFLICT
        && let Ok(outcome) = serde_json::from_slice(&answer.body)
    {
        return Ok(outcome);
    }
    answer.read()
}

fn below(outcome: &RemoveOutcome) -> String {
    match outcome.cascade_deleted {
        0 => String::new(),
        number => format!(" and {} below it", count(number, "workspace", "workspaces")),
    }
}

/// The failure if rows were removed but the deletion of their containers and volumes is not confirmed.
fn not_purged(args: &Args, outcome: &RemoveOutcome, why: &str) -> Failure {
    let why = format!("{}{} removed, but not yet permanently deleted: {why}", args.name, below(outcome));
    let next = "ostler retries the deletion; `ostler trash ls` shows what is left. Until the deletion succeeds, \
                `ostler undelete` restores the workspace";
    Failure::new(Exit::Failed, why).next(next)
}

fn summary_of(args: &Args, outcome: &RemoveOutcome) -> String {
    let (name, below) = (&args.name, below(outcome));
    if outcome.purged == Some(true) {
        return format!("{name}{below} permanently deleted");
    }
    let them = if outcome.cascade_deleted == 0 { "it" } else { "them" };
    let detail = outcome.detail.as_deref().map(|detail| format!(": {}", printable(detail)));
    let detail = detail.unwrap_or_default();
    format!("{name}{below} removed{detail}; `ostler undelete {}` restores {them}", quoted(name))
}

fn has_children(args: &Args, outcome: &RemoveOutcome) -> Failure {
    let names: Vec<_> = outcome.children.iter().map(|child| child.name.as_str()).collect();
    let number = outcome.children_count.max(names.len());
    let why = format!(
        "nothing was removed: {} has {} below it: {}",
        args.name,
        count(number, "workspace", "workspaces"),
        names.join(", ")
    );
    let next = format!("`ostler rm --cascade {}` removes them too", quoted(&args.name));
    Failure::new(Exit::Conflict, why).next(next)
}
