//! `ostler show`

use clap::builder::NonEmptyStringValueParser;

use crate::{
    api::workspace::WorkspaceView,
    cli::{
        client,
        failure::Failure,
        output::Tone,
        readiness::note_if_not_ready,
        session::Session,
        text::{self, printable},
    },
};

/// Show the status and settings of a workspace
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ostler show builder
  ostler show 6f1c --json")]
pub(in crate::cli) struct Args {
    /// Name, id or prefix of the id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: String,
}

pub(in crate::cli) async fn run(session: &Session<'_>, args: &Args) -> Result<u8, Failure> {
    let workspace: WorkspaceView = session.client.get(&client::workspace_even_removed(&args.name)).await?;
    if session.out.json() {
        session.out.value(&workspace)?;
        return Ok(0);
    }
    let parent = parent_name(session, &workspace).await;
    heading(session, &workspace)?;
    for (key, value) in facts(workspace, parent) {
        if let Some(value) = value {
            let key = session.out.paint(Tone::Dim, &format!("{key:<10}"));
            session.out.line(&format!("  {key}  {}", printable(&value)))?;
        }
    }
    note_if_not_ready(session).await;
    Ok(0)
}

/// Prints `builder is failed (parked), for 3h`, and the status detail below it.
pub(super) fn heading(session: &Session<'_>, workspace: &WorkspaceView) -> Result<(), Failure> {
    let status = session.out.paint(text::tone(&workspace.status), &text::status(workspace));
    let lasting = text::lasting(&workspace.status_since);
    session.out.line(&format!("{} is {status}, {lasting}", printable(&workspace.name)))?;
    for line in workspace.status_detail.iter().flat_map(|detail| detail.lines()) {
        session.out.line(&format!("  {}", printable(line)))?;
    }
    if let Some(note) = &workspace.port_note {
        session.out.line(&format!("  {}", printable(note)))?;
    }
    Ok(())
}

/// The name of the parent, or its id if the daemon cannot show it.
async fn parent_name(session: &Session<'_>, workspace: &WorkspaceView) -> Option<String> {
    let id = workspace.parent_id.as_deref()?;
    match session.client.get::<WorkspaceView>(&client::workspace(id)).await {
        Ok(parent) => Some(parent.name),
        Err(_) => Some(id.to_owned()),
    }
}

/// A note that lists the fields whose last value from the agent cannot be used; `None` if there are none.
pub(super) fn refused(fields: &[String]) -> Option<String> {
    let names = fields.join(", ");
    (!fields.is_empty())
        .then(|| format!("fields {names}: the values that the agent last sent cannot be used"))
}

fn facts(workspace: WorkspaceView, parent: Option<String>) -> Vec<(&'static str, Option<String>)> {
    let drifted = workspace.drifted.then(|| {
        let name = text::quoted(&workspace.name);
        format!(
            "its container was created with other settings: `ostler recreate {name}` applies the current ones"
        )
    });
    let read_only = workspace.spec.workspace_access.is_some();
    let dir =
        workspace.spec.workspace_dir.map(|dir| if read_only { format!("{dir} (read-only)") } else { dir });
    let when = if workspace.config_pending { "written at its next start" } else { "as given" };
    let config =
        workspace.spec.config_bytes.map(|bytes| format!("/configs/config.yaml, {bytes} bytes {when}"));
    vec![
        ("id", Some(workspace.id)),
        ("role", workspace.role),
        ("parent", parent),
        ("runtime", Some(if workspace.external { "external".to_owned() } else { workspace.runtime })),
        ("tier", Some(workspace.tier.to_string())),
        ("image", workspace.image),
        ("command", (!workspace.spec.command.is_empty()).then(|| workspace.spec.command.join(" "))),
        (
            "env",
            (!workspace.spec.env_names.is_empty())
                .then(|| format!("{} (values hidden)", workspace.spec.env_names.join(", "))),
        ),
        ("dir", dir),
        ("config", config),
        ("limits", workspace.limits_note),
        ("container", workspace.container_id.map(|id| id.get(..12).unwrap_or(&id).to_owned())),
        ("starts", Some(workspace.incarnation.to_string())),
        ("url", workspace.url),
        ("port", workspace.host_port.map(|port| format!("127.0.0.1:{port}"))),
        ("drifted", drifted),
        ("heartbeat", workspace.last_heartbeat_at.as_deref().map(text::local_and_age)),
        ("task", workspace.current_task.filter(|task| !task.is_empty())),
        ("tasks", (workspace.active_tasks > 0).then(|| workspace.active_tasks.to_string())),
        (
            "errors",
            (workspace.last_error_rate > 0.0).then(|| format!("{:.0} %", workspace.last_error_rate * 100.0)),
        ),
        (
            "stalled",
            workspace.wedged_since.as_deref().map(|since| format!("since {}", text::local_and_age(since))),
        ),
        ("refused", refused(&workspace.fields_refused)),
        (
            "hibernates",
            workspace.hibernation_idle_minutes.map(|minutes| format!("after {minutes} idle minutes")),
        ),
        ("restart", workspace.restart_due_at.as_deref().map(|at| format!("due at {}", text::local(at)))),
        ("now", workspace.operation),
        ("created", Some(text::local_and_age(&workspace.created_at))),
        ("removed", workspace.removed_at.as_deref().map(text::local_and_age)),
    ]
}
