//! `ostler ls`

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    api::{
        adoption::{Adopt, AdoptOutcome},
        workspace::WorkspaceView,
    },
    cli::{
        failure::Failure,
        output::{self, Cell, Tone},
        readiness::note_if_not_ready,
        session::Session,
        text::{self, count, printable},
    },
};

/// List workspaces as a tree
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ostler ls
  ostler ls --removed          list what `undelete` can restore
  ostler ls --json | jq -r '.[] | select(.status == \"failed\") | .name'")]
pub(in crate::cli) struct Args {
    /// List removed workspaces instead
    #[arg(long)]
    removed: bool,
    /// Print a flat list with ids instead of a tree
    #[arg(long)]
    flat: bool,
}

pub(in crate::cli) async fn run(session: &Session<'_>, args: &Args) -> Result<u8, Failure> {
    let query = if args.removed { "?removed=true" } else { "" };
    let mut workspaces: Vec<WorkspaceView> = session.client.get(&format!("/workspaces{query}")).await?;
    if session.out.json() {
        session.out.value(&workspaces)?;
        return Ok(0);
    }
    if workspaces.is_empty() {
        output::note(&nothing(session).await);
        return Ok(0);
    }
    workspaces.sort_by(|one, other| one.name.cmp(&other.name));
    let rows = if args.flat { flat(&workspaces) } else { tree(&workspaces) };
    session.out.table(["NAME", "ID", "STATUS", "SINCE", "TIER", "IMAGE", "NOTE"], rows)?;
    note_if_not_ready(session).await;
    Ok(0)
}

/// The message for a registry without workspaces: it may be new, or its content may be lost.
async fn nothing(session: &Session<'_>) -> String {
    let question = Adopt { which: Vec::new(), all: false, dry_run: true, instance: None };
    let asked: Result<AdoptOutcome, _> = session.client.post("/adopt", &question).await;
    let Ok(AdoptOutcome { items, recovering }) = asked else {
        return "The registry has no workspaces, and Podman's containers could not be listed: `ostler doctor` shows \
                why. `ostler create NAME --image IMAGE` creates a workspace."
            .to_owned();
    };
    let adoptable = items.iter().filter(|item| item.adopted).count();
    let lost = if recovering { "The registry was lost or restored and is recovering: " } else { "" };
    match (adoptable, items.len()) {
        (0, 0) if !recovering => {
            "There are no workspaces yet: `ostler create NAME --image IMAGE` creates one.".to_owned()
        }
        (0, 0) => format!("{lost}it has no workspaces, and Podman holds none. `ostler doctor` shows what to do."),
        (adoptable, all) => format!(
            "{lost}it has no workspaces, but Podman holds {}, {adoptable} of which can be adopted. \
             `ostler adopt --dry-run` lists them, `ostler adopt --all` adopts them, `ostler doctor` shows details.",
            count(all, "workspace that it does not know", "workspaces that it does not know"),
        )
        .replacen("it has", if recovering { "it has" } else { "The registry has" }, 1),
    }
}

type Row = [Cell; 7];

fn flat(workspaces: &[WorkspaceView]) -> Vec<Row> {
    workspaces.iter().map(|workspace| row(workspace, "", text::short(&workspace.id))).collect()
}

/// Sorts children below their parents. A workspace whose parent is not listed (for example, removed) is at the root.
fn tree(workspaces: &[WorkspaceView]) -> Vec<Row> {
    let listed: BTreeSet<_> = workspaces.iter().map(|workspace| workspace.id.as_str()).collect();
    let mut children: BTreeMap<Option<&str>, Vec<&WorkspaceView>> = BTreeMap::new();
    for workspace in workspaces {
        let parent = workspace.parent_id.as_deref().filter(|parent| listed.contains(parent));
        children.entry(parent).or_default().push(workspace);
    }
    let mut rows = Vec::new();
    for root in children.get(&None).into_iter().flatten() {
        rows.push(row(root, "", removed_id(root)));
        branch(&children, &root.id, "", &mut rows);
    }
    rows
}

fn branch(
    children: &BTreeMap<Option<&str>, Vec<&WorkspaceView>>,
    id: &str,
    indent: &str,
    rows: &mut Vec<Row>,
) {
    let Some(below) = children.get(&Some(id)) else { return };
    for (index, child) in below.iter().enumerate() {
        let last = index + 1 == below.len();
        let (arm, further) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        rows.push(row(child, &format!("{indent}{arm}"), removed_id(child)));
        branch(children, &child.id, &format!("{indent}{further}"), rows);
    }
}

/// The short id of a removed workspace, whose name may be in use again. Empty for other workspaces.
fn removed_id(workspace: &WorkspaceView) -> &str {
    if workspace.removed_at.is_some() { text::short(&workspace.id) } else { "" }
}

fn row(workspace: &WorkspaceView, arms: &str, id: &str) -> Row {
    [
        format!("{arms}{}", printable(&workspace.name)).into(),
        Cell::toned(Tone::Dim, id),
        Cell::toned(text::tone(&workspace.status), text::status(workspace)),
        text::age(&workspace.status_since).into(),
        workspace.tier.to_string().into(),
        image(workspace).into(),
        Cell::toned(Tone::Dim, remark(workspace)),
    ]
}

fn image(workspace: &WorkspaceView) -> String {
    match &workspace.image {
        Some(image) => printable(image),
        None if workspace.external => "(external)".to_owned(),
        None => String::new(),
    }
}

/// Maximum number of characters of a note in a list; `show` prints the whole note.
const NOTE_CHARS: usize = 100;

fn shortened(note: String) -> String {
    if note.chars().count() <= NOTE_CHARS {
        return note;
    }
    note.chars().take(NOTE_CHARS - 1).chain(['…']).collect()
}

/// The most important note about a workspace.
fn remark(workspace: &WorkspaceView) -> String {
    let detail = workspace.status_detail.as_deref();
    let note_text = workspace
        .operation
        .as_deref()
        .or(detail)
        .map(|note_text| printable(note_text.lines().next().unwrap_or_default()));
    match note_text {
        Some(note_text) => shortened(note_text),
        None if workspace.drifted => {
            format!("drifted: `ostler recreate {}`", text::quoted(&workspace.name))
        }
        None => String::new(),
    }
}
