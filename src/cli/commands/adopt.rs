//! `ostler adopt`

use crate::{
    api::adoption::{Adopt, AdoptItem, AdoptOutcome},
    cli::{
        failure::{Exit, Failure},
        output::{self, Cell, Tone},
        session::Session,
        text::{count, printable, short},
    },
};

/// Register existing containers again after the registry was lost or restored
#[derive(Debug, clap::Args)]
#[command(after_help = "\
After the registry was lost or restored from a backup, Podman may have containers that the registry
does not know. `adopt` registers them again. Without arguments, it prints what can be adopted.
Running agents are not interrupted and keep their tokens.

Examples:
  ostler adopt                     list what can be adopted
  ostler adopt builder tester
  ostler adopt --all               adopt everything and end the recovery
  ostler adopt --instance 6f1c0c5e-0d0f-4c58-9b0e-0a4c1b7e2d11 --all")]
pub(in crate::cli) struct Args {
    /// Names, ids or prefixes of ids
    which: Vec<String>,
    /// Adopt everything that the registry does not know
    #[arg(long, conflicts_with = "which")]
    all: bool,
    /// Print what would be adopted, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Id of the installation whose containers are adopted; the registry must be empty
    #[arg(long, value_name = "ID")]
    instance: Option<String>,
}

pub(in crate::cli) async fn run(session: &Session<'_>, args: Args) -> Result<u8, Failure> {
    let Args { which, all, dry_run, instance } = args;
    // Without a selection the command is a dry run.
    let asking = dry_run || (which.is_empty() && !all && instance.is_none());
    let adopts_all = all && !asking;
    let order = Adopt { which, all, dry_run: asking, instance };
    let outcome: AdoptOutcome = session.client.post("/adopt", &order).await?;
    if session.out.json() {
        session.out.value(&outcome)?;
    } else {
        print(session, &outcome, asking, adopts_all)?;
    }
    let left = outcome.items.iter().filter(|item| !item.adopted).count();
    if left == 0 || asking {
        return Ok(0);
    }
    Err(Failure::new(
        Exit::Failed,
        format!("{} not adopted", count(left, "workspace was", "workspaces were")),
    ))
}

fn print(
    session: &Session<'_>,
    outcome: &AdoptOutcome,
    asking: bool,
    adopts_all: bool,
) -> Result<(), Failure> {
    if outcome.items.is_empty() {
        output::note(
            "There is nothing to adopt. `ostler doctor` lists other objects that the registry does not know.",
        );
    } else {
        let rows = outcome.items.iter().map(|item| row(item, asking)).collect();
        session.out.table(["ID", "NAME", "", "HOLDS", "DETAIL"], rows)?;
    }
    if asking && outcome.items.iter().any(|item| item.adopted) {
        output::note(
            "Nothing was changed. `ostler adopt NAME…` adopts these, `ostler adopt --all` everything.",
        );
    }
    let left = outcome.items.iter().filter(|item| !item.adopted && item.container_id.is_some()).count();
    if outcome.recovering && adopts_all && left > 0 {
        output::note(&format!(
            "The registry is still recovering, because {} could not be adopted. Until the recovery ends, nothing is \
             started, stopped or reaped automatically. Fix the cause and run `ostler adopt --all` again. To move \
             unwanted containers to the trash, see `ostler sweep show reap_unknown`.",
            count(left, "container", "containers"),
        ));
    } else if outcome.recovering {
        output::note(
            "The registry was lost or restored and is recovering: nothing is started, stopped or reaped automatically \
             until `ostler adopt --all` succeeds or every unknown container and volume is adopted or in the trash.",
        );
    }
    Ok(())
}

fn row(item: &AdoptItem, asking: bool) -> [Cell; 5] {
    let verdict = match (item.adopted, asking) {
        (true, true) => Cell::toned(Tone::Warn, "can be adopted"),
        (true, false) => Cell::toned(Tone::Good, "adopted"),
        (false, _) => Cell::toned(Tone::Bad, "not adopted"),
    };
    let container = item.container_id.as_ref().map(|_| "container".to_owned());
    let volumes = (!item.volumes.is_empty()).then(|| count(item.volumes.len(), "volume", "volumes"));
    let holds: Vec<_> = [container, volumes].into_iter().flatten().collect();
    [
        short(&item.workspace_id).into(),
        printable(&item.name).into(),
        verdict,
        holds.join(", ").into(),
        Cell::toned(Tone::Dim, printable(&item.detail)),
    ]
}
