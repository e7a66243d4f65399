//! `ostler sweep`

use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;

use crate::{
    api::sweep::{ActionView, ApprovePlan, HeldPlan, PassRun, PassView, RunSweeps},
    cli::{
        client::segment,
        failure::{Exit, Failure},
        output::{self, Cell, Tone},
        session::Session,
        text::{self, count, printable},
    },
    domain::duration,
};

/// List and run the maintenance passes, and approve held plans
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The subcommand.
    #[command(subcommand)]
    command: SweepCommand,
}

/// A command about passes.
#[derive(Debug, clap::Subcommand)]
enum SweepCommand {
    /// List the passes and the outcome of their last runs
    #[command(visible_alias = "ls")]
    List,
    /// Show a pass, its last run, and a plan that is held for approval
    Show {
        /// Name of the pass
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        pass: String,
    },
    /// Run passes now
    #[command(after_help = "\
A dry run prints the planned actions with their evidence. It also works while the daemon is stopped.

Examples:
  ostler sweep run --dry-run
  ostler sweep run reap_unknown")]
    Run {
        /// Names of the passes [default: all]
        passes: Vec<String>,
        /// Print the plan without applying it
        #[arg(long)]
        dry_run: bool,
    },
    /// Approve a plan that the breaker held because it affects too many workspaces at once
    #[command(after_help = "\
Approves exactly the actions that `ostler sweep show PASS` lists, and nothing else.

Examples:
  ostler sweep approve reap_unknown 9a3c")]
    Approve {
        /// Name of the pass
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        pass: String,
        /// Id of the plan, or a prefix of it
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        plan: String,
    },
}

pub(in crate::cli) async fn run(session: &Session<'_>, args: Args) -> Result<u8, Failure> {
    match args.command {
        SweepCommand::List => list(session).await,
        SweepCommand::Show { pass } => show(session, &pass).await,
        SweepCommand::Run { passes, dry_run } => run_passes(session, RunSweeps { passes, dry_run }).await,
        SweepCommand::Approve { pass, plan } => approve(session, &pass, plan).await,
    }
}

async fn list(session: &Session<'_>) -> Result<u8, Failure> {
    let passes: Vec<PassView> = session.client.get("/sweeps").await?;
    if session.out.json() {
        session.out.value(&passes)?;
        return Ok(0);
    }
    session
        .out
        .table(["PASS", "EVERY", "LAST RUN", "OUTCOME", "RESULT"], passes.iter().map(row).collect())?;
    for plan in passes.iter().filter_map(|pass| pass.held.as_ref()) {
        output::note(&waits(plan));
    }
    Ok(0)
}

fn row(pass: &PassView) -> [Cell; 5] {
    let last = pass.last.as_ref();
    let outcome = match (pass.running, &pass.held, last) {
        (true, ..) => Cell::toned(Tone::Warn, "running"),
        (false, Some(_), _) => Cell::toned(Tone::Bad, "held"),
        (false, None, Some(run)) => Cell::toned(tone(&run.outcome), run.outcome.as_str()),
        (false, None, None) => Cell::toned(Tone::Dim, "not yet run"),
    };
    [
        pass.name.as_str().into(),
        every(pass.period_seconds).into(),
        last.map(|run| text::ago(&run.started_at)).unwrap_or_default().into(),
        outcome,
        Cell::toned(Tone::Dim, last.map(did).unwrap_or_default()),
    ]
}

fn every(seconds: u64) -> String {
    match seconds {
        0 => "when due".to_owned(),
        seconds => duration::exact(Duration::from_secs(seconds)),
    }
}

/// Summary of a run: the number of actions by result.
fn did(run: &PassRun) -> String {
    let mut parts = Vec::new();
    for result in ["applied", "planned", "held", "raced", "failed"] {
        let number = run.actions.iter().filter(|action| action.result == result).count();
        if number > 0 {
            parts.push(format!("{number} {result}"));
        }
    }
    if !run.watching.is_empty() {
        parts.push(format!("watching {}", run.watching.len()));
    }
    if run.left_over > 0 {
        parts.push(format!("{} left for the next run", run.left_over));
    }
    if let (true, Some(detail)) = (parts.is_empty(), &run.detail) {
        parts.push(printable(detail));
    }
    parts.join(", ")
}

fn tone(outcome: &str) -> Tone {
    match outcome {
        "done" | "applied" => Tone::Good,
        "dry_run" | "planned" => Tone::Plain,
        "held" | "untrusted" | "raced" => Tone::Warn,
        _ => Tone::Bad,
    }
}

fn waits(plan: &HeldPlan) -> String {
    format!(
        "{pass} is held: {reason}. `ostler sweep show {pass}` lists its actions, `ostler sweep approve {pass} {id}` \
         approves them.",
        pass = plan.pass,
        reason = printable(&plan.reason),
        id = text::short(&plan.id),
    )
}

async fn show(session: &Session<'_>, name: &str) -> Result<u8, Failure> {
    let pass: PassView = session.client.get(&format!("/sweeps/{}", segment(name))).await?;
    if session.out.json() {
        session.out.value(&pass)?;
        return Ok(0);
    }
    session.out.line(&format!("{}: {}", pass.name, pass.summary))?;
    let period = every(pass.period_seconds);
    session.out.line(&if pass.period_seconds == 0 {
        format!("  runs {period}")
    } else {
        format!("  runs every {period}")
    })?;
    match &pass.last {
        Some(run) => print_run(session, run)?,
        None => session.out.line("  has not run yet")?,
    }
    if let Some(plan) = &pass.held {
        session.out.line(&format!(
            "\nheld {}: {}",
            text::local_and_age(&plan.held_at),
            printable(&plan.reason)
        ))?;
        print_actions(session, &plan.actions)?;
        session.out.line(&format!(
            "approve exactly these actions: `ostler sweep approve {} {}`",
            plan.pass,
            text::short(&plan.id)
        ))?;
    }
    Ok(0)
}

fn print_run(session: &Session<'_>, run: &PassRun) -> Result<(), Failure> {
    let outcome = session.out.paint(tone(&run.outcome), &run.outcome);
    let detail = run.detail.as_deref().map(|detail| format!(": {}", printable(detail))).unwrap_or_default();
    session.out.line(&format!("{}  {outcome} in {} ms{detail}", run.pass, run.took_ms))?;
    print_actions(session, &run.actions)?;
    for watched in &run.watching {
        session.out.line(&format!("  watching  {}", printable(watched)))?;
    }
    if run.left_over > 0 {
        session
            .out
            .line(&format!("  {} left for the next run", count(run.left_over, "action is", "actions are")))?;
    }
    Ok(())
}

fn print_actions(session: &Session<'_>, actions: &[ActionView]) -> Result<(), Failure> {
    for action in actions {
        let result = session.out.paint(tone(&action.result), &format!("{:<8}", action.result));
        session.out.line(&format!(
            "  {result}  {}: {}",
            printable(&action.workspace),
            printable(&action.action)
        ))?;
        let because = [Some(&action.evidence), action.detail.as_ref()];
        for line in because.into_iter().flatten().filter(|line| !line.is_empty()) {
            session.out.line(&session.out.paint(Tone::Dim, &format!("            {}", printable(line))))?;
        }
    }
    Ok(())
}

async fn run_passes(session: &Session<'_>, order: RunSweeps) -> Result<u8, Failure> {
    let answer: Result<Vec<PassRun>, Failure> = session.client.post("/sweeps/run", &order).await;
    let runs = match answer {
        Err(failure) if failure.is_unreachable() && order.dry_run => {
            output::note("The daemon does not answer; planning without it.");
            session.host.dry_run(order.passes).await?
        }
        other => other?,
    };
    if session.out.json() {
        session.out.value(&runs)?;
    } else {
        for run in &runs {
            print_run(session, run)?;
        }
    }
    failed(&runs).map_or(Ok(0), Err)
}

/// The failure if a pass did not do its work: a script must not mistake a held plan for success.
fn failed(runs: &[PassRun]) -> Option<Failure> {
    let not_done: Vec<_> =
        runs.iter().filter(|run| !matches!(run.outcome.as_str(), "done" | "dry_run")).collect();
    let first = not_done.first()?;
    let outcomes: Vec<_> = not_done.iter().map(|run| format!("{} {}", run.pass, run.outcome)).collect();
    let next = match first.outcome.as_str() {
        "untrusted" => "`ostler doctor` shows why the engine's listing is not trusted".to_owned(),
        _ => format!("`ostler sweep show {}` shows details", first.pass),
    };
    let why =
        format!("{} not done: {}", count(not_done.len(), "pass was", "passes were"), outcomes.join(", "));
    Some(Failure::new(Exit::Failed, why).next(next))
}

async fn approve(session: &Session<'_>, pass: &str, plan_id: String) -> Result<u8, Failure> {
    let path = format!("/sweeps/{}/approve", segment(pass));
    let plan: HeldPlan = session.client.post(&path, &ApprovePlan { plan_id }).await?;
    if session.out.json() {
        session.out.value(&plan)?;
        return Ok(0);
    }
    let number = count(plan.actions.len(), "action", "actions");
    session.out.line(&format!("approved {number} of {}, for its next run", plan.pass))?;
    print_actions(session, &plan.actions)?;
    Ok(0)
}
