//! One file per command. Commands that only request an operation on one workspace share [`order`].

pub(super) mod adopt;
pub(super) mod completions;
pub(super) mod config;
pub(super) mod create;
pub(super) mod doctor;
pub(super) mod events;
pub(super) mod exec;
pub(super) mod hibernate;
pub(super) mod logs;
pub(super) mod ls;
pub(super) mod man;
pub(super) mod message;
mod order;
pub(super) mod recreate;
pub(super) mod reload;
pub(super) mod restart;
pub(super) mod rm;
pub(super) mod set;
pub(super) mod shell;
pub(super) mod show;
pub(super) mod start;
pub(super) mod stop;
pub(super) mod sweep;
mod timeline;
pub(super) mod token;
pub(super) mod trash;
pub(super) mod undelete;
pub(super) mod wake;
pub(super) mod why;

/// If the daemon is not ready or the registry is recovering, prints a note on standard error that the command's output
/// may be out of date or incomplete.
async fn note_if_not_ready(session: &super::Session<'_>) {
    let Ok(answer) = session.client.ask(hyper::Method::GET, "/ready", None::<&()>).await else { return };
    if answer.status == hyper::StatusCode::SERVICE_UNAVAILABLE
        && let super::failure::Failure::Reported { error, .. } = answer.refusal()
    {
        super::output::note(&format!("This may be out of date: {error}. `ostler doctor` shows details."));
    } else if answer.read::<crate::api::health::Ready>().is_ok_and(|ready| ready.recovering) {
        super::output::note(
            "The registry was lost or restored and is recovering: this output may be incomplete. \
             `ostler adopt --dry-run` lists what it does not know.",
        );
    }
}
