//! Routes that comparable servers have and ostler does not have. Each responds with 501 and one sentence. So the client
//! learns that ostler knows the route, and that a retry cannot succeed.

use axum::{Router, http::StatusCode, routing::any};

use super::super::{Api, auth::Principal, error::HttpError};

/// The paths, and the feature that comparable servers provide at each path. A path also covers all paths below it. The
/// response is "ostler has no" followed by the feature.
const MISSING: &[(&str, &str)] = &[
    ("/approvals", "approvals"),
    ("/bundles", "bundles"),
    ("/canvas", "canvas"),
    ("/templates", "templates"),
    ("/plugins", "plugins"),
    ("/ws", "web socket: use /events/stream"),
    ("/workspaces/{reference}/approvals", "approvals"),
    ("/workspaces/{reference}/checkpoints", "checkpoints"),
    ("/workspaces/{reference}/secrets", "secrets: set environment variables when you create a workspace"),
    ("/workspaces/{reference}/memory", "key-value memory: use /memories"),
    ("/workspaces/{reference}/chat", "uploads"),
    ("/workspaces/{reference}/instructions", "instructions"),
    ("/workspaces/{reference}/shared-context", "shared context"),
    ("/workspaces/{reference}/github-installation-token", "tokens for code hosts"),
    ("/workspaces/{reference}/schedules", "schedules"),
    ("/workspaces/{reference}/files", "file access: use /workspace inside the container"),
    ("/workspaces/{reference}/budget", "budgets"),
];

/// Builds the routes of this table; each requires a token.
pub(in super::super) fn routes() -> Router<Api> {
    let mut router = Router::new();
    for (path, what) in MISSING {
        // `Principal` requires a token as on other routes: without one a client does not learn which routes exist.
        let answer = move |_: Principal| async move {
            HttpError::new(StatusCode::NOT_IMPLEMENTED, format!("ostler has no {what}"))
        };
        router = router.route(path, any(answer)).route(&format!("{path}/{{*rest}}"), any(answer));
    }
    router
}
