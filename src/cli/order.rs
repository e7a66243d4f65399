//! Common part of the commands for one operation on one workspace: request the operation, wait for it, print its
//! outcome.

use serde::Serialize;

use super::session::Session;
use crate::{
    api::{order::OrderOutcome, workspace::WorkspaceView},
    cli::{
        client::workspace,
        failure::{Exit, Failure},
        output::Tone,
        spinner,
        text::{self, printable, quoted},
    },
};

/// How long the command waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// Not at all: the operation is only accepted.
    No,
    /// Until the operation is done.
    Done,
    /// Until the operation is done and the workspace has left `provisioning`.
    Online,
}

impl Wait {
    /// `goal`, unless `--no-wait` was given.
    pub(super) fn goal_to_await(no_wait: bool, goal: Self) -> Self {
        if no_wait { Self::No } else { goal }
    }
}

/// Requests the operation `verb` on a workspace.
pub(super) async fn request_order(
    session: &Session<'_>,
    reference: &str,
    verb: &str,
    body: &impl Serialize,
    wait: Wait,
) -> Result<u8, Failure> {
    request_order_with(session, reference, verb, &[], body, wait).await
}

/// The same as `request_order`, with query parameters.
pub(super) async fn request_order_with(
    session: &Session<'_>,
    reference: &str,
    verb: &str,
    how: &[&str],
    body: &impl Serialize,
    wait: Wait,
) -> Result<u8, Failure> {
    let wanted: Vec<_> = how.iter().copied().chain((wait == Wait::No).then_some("wait=false")).collect();
    let query = if wanted.is_empty() { String::new() } else { format!("?{}", wanted.join("&")) };
    let path = format!("{}/{verb}{query}", workspace(reference));
    let order = session.client.post::<OrderOutcome>(&path, body);
    let mut outcome = match wait {
        Wait::No => order.await?,
        Wait::Done | Wait::Online => spinner::while_carried_out(session, reference, order).await?,
    };
    let mut failure = None;
    if wait == Wait::Online && !outcome.accepted {
        let view = spinner::until_settled(session, &outcome.id, &outcome.name).await?;
        outcome.status.clone_from(&view.status);
        outcome.detail.clone_from(&view.status_detail);
        failure = not_up(&view);
    }
    if session.out.json() {
        session.out.value(&outcome)?;
    } else if failure.is_none() {
        let detail = outcome.detail.as_deref().map(|detail| format!(": {}", printable(detail)));
        if let Some(id) = outcome.operation_id.filter(|_| outcome.accepted) {
            let waits = outcome.detail.as_deref().map(|detail| format!(": {}", printable(detail)));
            session.out.line(&format!(
                "operation {id} ({verb} {}) is accepted{}. Wait for its result: `ostler operations wait {id}`",
                printable(&outcome.name),
                waits.unwrap_or_default()
            ))?;
            return Ok(0);
        }
        let detail = detail.unwrap_or_default();
        print(session, &printable(&outcome.name), &outcome.status, &detail)?;
        for along in outcome.along.iter().filter(|along| !along.failed) {
            let detail = along.detail.as_deref().map(|detail| format!(": {}", printable(detail)));
            print(
                session,
                &format!("  {}", printable(&along.name)),
                &along.status,
                &detail.unwrap_or_default(),
            )?;
        }
    }
    failure.or_else(|| not_along(&outcome)).map_or(Ok(0), Err)
}

/// Prints `builder is online`, followed by `rest`.
pub(super) fn print(session: &Session<'_>, name: &str, status: &str, rest: &str) -> Result<(), Failure> {
    let status = session.out.paint(text::tone(status), status);
    session.out.line(&format!("{name} is {status}{rest}"))
}

/// The failure if the operation failed for workspaces below the named workspace.
fn not_along(outcome: &OrderOutcome) -> Option<Failure> {
    let failed: Vec<_> = outcome.along.iter().filter(|along| along.failed).collect();
    let first = failed.first()?;
    let detail = first.detail.as_deref().map(|detail| format!(": {}", printable(detail)));
    let status_text = format!("{} is {}{}", printable(&first.name), first.status, detail.unwrap_or_default());
    let more = (failed.len() > 1).then(|| format!(", and {} more below {}", failed.len() - 1, outcome.name));
    let next = format!("`ostler why {}` shows the reason", quoted(&first.name));
    Some(Failure::new(Exit::Failed, format!("{status_text}{}", more.unwrap_or_default())).next(next))
}

/// The failure if a workspace that was to be started is not up.
pub(super) fn not_up(view: &WorkspaceView) -> Option<Failure> {
    if matches!(text::tone(&view.status), Tone::Good | Tone::Warn) {
        return None;
    }
    let detail = view.status_detail.as_deref().map(|detail| format!(": {}", printable(detail)));
    let status_text =
        format!("{} is {}{}", printable(&view.name), text::status(view), detail.unwrap_or_default());
    let next = format!(
        "`ostler why {0}` shows the reason, `ostler logs {0}` the output of its container",
        quoted(&view.name)
    );
    Some(Failure::new(Exit::Failed, status_text).next(next))
}
