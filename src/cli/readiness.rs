//! The note that the daemon is not ready.

use hyper::{Method, StatusCode};

use crate::api::health::Ready;

use super::{client::NOTHING, failure::Failure, output, session::Session};

/// If the daemon is not ready or the registry is recovering, prints a note on standard error that the command's output
/// may be out of date or incomplete.
pub(super) async fn note_if_not_ready(session: &Session<'_>) {
    let Ok(answer) = session.client.ask(Method::GET, "/ready", NOTHING).await else { return };
    if answer.status == StatusCode::SERVICE_UNAVAILABLE
        && let Failure::Reported { error, .. } = answer.refusal()
    {
        output::note(&format!("This may be out of date: {error}. `ostler doctor` shows details."));
    } else if answer.read::<Ready>().is_ok_and(|ready| ready.recovering) {
        output::note(
            "The registry was lost or restored and is recovering: this output may be incomplete. \
             `ostler adopt --dry-run` lists what it does not know.",
        );
    }
}
