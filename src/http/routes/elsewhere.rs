//! What other servers of the field have and ostler has not: each route says so in one sentence, with 501, so that
//! a client learns that the request was understood and will not work later either.

use axum::{Router, http::StatusCode, routing::any};

use super::super::{Api, auth::Principal, error::HttpError};

/// Routes, with everything below them, and what they would be.
const MISSING: &[(&str, &str)] = &[
    ("/approvals", "approvals"),
    ("/bundles", "bundles"),
    ("/canvas", "a canvas"),
    ("/templates", "templates"),
    ("/plugins", "plugins"),
    ("/ws", "a web socket: follow /events/stream"),
    ("/workspaces/{reference}/approvals", "approvals"),
    ("/workspaces/{reference}/checkpoints", "checkpoints"),
    ("/workspaces/{reference}/secrets", "secrets: give a workspace its environment when it is created"),
    ("/workspaces/{reference}/memory", "a key-value memory: use /memories"),
    ("/workspaces/{reference}/chat", "uploads"),
    ("/workspaces/{reference}/instructions", "instructions"),
    ("/workspaces/{reference}/shared-context", "a shared context"),
    ("/workspaces/{reference}/github-installation-token", "tokens of code hosts"),
    ("/workspaces/{reference}/schedules", "schedules"),
    ("/workspaces/{reference}/files", "file access: use /workspace inside the container"),
    ("/workspaces/{reference}/budget", "budgets"),
];

/// The routes.
pub(in super::super) fn routes() -> Router<Api> {
    let mut router = Router::new();
    for (path, what) in MISSING {
        // A token is asked for as everywhere else: only its holders learn what there is.
        let answer = move |_: Principal| async move {
            HttpError::new(StatusCode::NOT_IMPLEMENTED, format!("ostler has no {what}"))
        };
        router = router.route(path, any(answer)).route(&format!("{path}/{{*rest}}"), any(answer));
    }
    router
}
