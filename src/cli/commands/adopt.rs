//! `ostler adopt`

use crate::{
    api::adoption::{Adopt, AdoptItem, AdoptOutcome},
    cli::{
        Session,
        args::AdoptArgs,
        failure::{Exit, Failure},
        output::{self, Cell, Tone},
        text::{count, printable, short},
    },
};

pub(in crate::cli) async fn run(session: &Session<'_>, args: AdoptArgs) -> Result<u8, Failure> {
    let AdoptArgs { which, all, dry_run, instance } = args;
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
