//! `ostler operations`

use std::pin::pin;

use clap::builder::NonEmptyStringValueParser;

use crate::{
    api::operation::OperationView,
    cli::{
        client::segment,
        failure::{Exit, Failure},
        output::{self, Cell, Tone},
        session::Session,
        text::{self, printable},
    },
};

/// List operations such as starts and removals, wait for one, or cancel it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Every order that starts, stops, restores or deletes something is stored as an operation before anything is done. It
continues after a restart of the daemon, and waits while Podman does not answer. The newest 1000 are kept.
Not operations: adopt, set, token, exec, sweep, doctor, wakes by a message, and what sweeps do by themselves.

Examples:
  ostler operations
  ostler restart builder --no-wait      prints the number of the operation
  ostler operations wait 41")]
pub(in crate::cli) struct Args {
    /// The subcommand [default: ls]
    #[command(subcommand)]
    command: Option<OperationsCommand>,
}

#[derive(Debug, clap::Subcommand)]
enum OperationsCommand {
    /// List operations, newest first
    #[command(
        visible_alias = "list",
        after_help = "\
Examples:
  ostler operations ls --open
  ostler operations ls builder -n 5"
    )]
    Ls {
        /// Only those of this workspace
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        workspace: Option<String>,
        /// Only those that have not ended
        #[arg(long)]
        open: bool,
        /// Number of operations
        #[arg(short = 'n', long, value_name = "NUMBER", default_value_t = 20)]
        limit: u32,
    },
    /// Show an operation
    Show {
        /// Number of the operation
        id: u32,
    },
    /// Wait until an operation has ended
    #[command(after_help = "\
Exits with 1 if the operation failed or was cancelled. A start is done when its container runs; its agent may not be
online yet.

Examples:
  ostler operations wait 41")]
    Wait {
        /// Number of the operation
        id: u32,
    },
    /// Cancel an operation that has not done anything yet
    #[command(after_help = "\
A start or a wake can be cancelled until its container is started; a restart, a recreate or a deletion until it is
carried out. For other operations, the error says how to undo them.

Examples:
  ostler operations cancel 41")]
    Cancel {
        /// Number of the operation
        id: u32,
    },
}

pub(in crate::cli) async fn run(session: &Session<'_>, args: Args) -> Result<u8, Failure> {
    let all = OperationsCommand::Ls { workspace: None, open: false, limit: 20 };
    match args.command.unwrap_or(all) {
        OperationsCommand::Ls { workspace, open, limit } => {
            list(session, workspace.as_deref(), open, limit).await
        }
        OperationsCommand::Show { id } => {
            let operation: OperationView = session.client.get(&format!("/operations/{id}")).await?;
            show(session, &operation)?;
            Ok(0)
        }
        OperationsCommand::Wait { id } => wait(session, id).await,
        OperationsCommand::Cancel { id } => {
            let path = format!("/operations/{id}/cancel");
            let operation: OperationView = session.client.post(&path, &serde_json::json!({})).await?;
            if session.out.json() {
                session.out.value(&operation)?;
            } else {
                session.out.line(&line(&operation))?;
            }
            Ok(0)
        }
    }
}

async fn list(session: &Session<'_>, workspace: Option<&str>, open: bool, limit: u32) -> Result<u8, Failure> {
    let of = workspace.map(|name| format!("&workspace={}", segment(name))).unwrap_or_default();
    let path = format!("/operations?limit={limit}&open={open}{of}");
    let operations: Vec<OperationView> = session.client.get(&path).await?;
    if session.out.json() {
        session.out.value(&operations)?;
        return Ok(0);
    }
    if operations.is_empty() {
        output::note("No operations.");
        return Ok(0);
    }
    session.out.table(
        ["ID", "OPERATION", "WORKSPACE", "BY", "ACCEPTED", "STATE", "DETAIL"],
        operations.iter().map(row).collect(),
    )?;
    Ok(0)
}

fn row(operation: &OperationView) -> [Cell; 7] {
    let by = if operation.requested_by == "operator" { "operator" } else { "agent" };
    let detail = operation.progress.as_deref().or(operation.detail.as_deref());
    [
        operation.id.to_string().into(),
        operation.kind.as_str().into(),
        printable(&operation.workspace_name).into(),
        by.into(),
        text::ago(&operation.created_at).into(),
        Cell::toned(tone(&operation.state), operation.state.as_str()),
        Cell::toned(Tone::Dim, detail.map(printable).unwrap_or_default()),
    ]
}

fn tone(state: &str) -> Tone {
    match state {
        "done" => Tone::Good,
        "failed" => Tone::Bad,
        "running" | "waiting" | "accepted" => Tone::Warn,
        _ => Tone::Dim,
    }
}

/// One sentence such as `operation 41 (start builder) is done: started`.
fn line(operation: &OperationView) -> String {
    let OperationView { id, kind, .. } = operation;
    let name = printable(&operation.workspace_name);
    let state = match operation.state.as_str() {
        "running" if operation.cancel_requested => "is to be cancelled, when its present step ends",
        "accepted" => "waits for earlier operations",
        "running" => "is running",
        "waiting" => "waits for Podman",
        "done" => "is done",
        "skipped" => "did nothing",
        "failed" => "failed",
        "cancelled" => "was cancelled",
        other => other,
    };
    let detail = operation.progress.as_deref().or(operation.detail.as_deref());
    let detail = detail.map(|detail| format!(": {}", printable(detail))).unwrap_or_default();
    format!("operation {id} ({kind} {name}) {state}{detail}")
}

fn show(session: &Session<'_>, operation: &OperationView) -> Result<(), Failure> {
    if session.out.json() {
        return session.out.value(operation);
    }
    session.out.line(&line(operation))?;
    let times = [
        ("requested by", Some(printable(&operation.requested_by))),
        ("accepted at", Some(text::local(&operation.created_at))),
        ("started at", operation.started_at.as_deref().map(text::local)),
        ("ended at", operation.ended_at.as_deref().map(text::local)),
    ];
    for (label, value) in times {
        if let Some(value) = value {
            session.out.line(&format!("  {label:<12}  {value}"))?;
        }
    }
    Ok(())
}

async fn wait(session: &Session<'_>, id: u32) -> Result<u8, Failure> {
    let mut interrupted = pin!(tokio::signal::ctrl_c());
    let mut noted = false;
    let operation = loop {
        let path = format!("/operations/{id}?wait=true");
        let operation: OperationView = tokio::select! {
            biased;
            _ = &mut interrupted => {
                output::note(&format!("stopped waiting; the daemon continues: `ostler operations show {id}` shows the result"));
                return Err(Failure::Interrupted);
            }
            operation = session.client.get(&path) => operation?,
        };
        if operation.ended_at.is_some() {
            break operation;
        }
        if operation.state == "waiting" && !std::mem::replace(&mut noted, true) {
            output::note(&line(&operation));
        }
    };
    if matches!(operation.state.as_str(), "failed" | "cancelled") {
        let next = format!(
            "`ostler why {}` shows what led to it",
            crate::cli::text::quoted(&operation.workspace_name)
        );
        if session.out.json() {
            session.out.value(&operation)?;
        }
        return Err(Failure::new(Exit::Failed, line(&operation)).next(next));
    }
    if session.out.json() {
        session.out.value(&operation)?;
    } else {
        session.out.line(&line(&operation))?;
    }
    Ok(0)
}
