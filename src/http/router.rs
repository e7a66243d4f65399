//! The route table, with the authorization of each route.
//!
//! A route is open to every caller, only to admins, or to admins and workspaces. The handler of a route of the last
//! kind checks which workspaces may use it. The same routes are served on the local socket and on TCP.

use axum::{
    Router,
    extract::Request,
    http::{StatusCode, Uri},
    middleware,
    response::IntoResponse,
    routing::{delete, get, post},
};
use tower_service::Service as _;

use super::{
    Api, auth,
    error::HttpError,
    proxy::handler,
    routes::{
        adopt, agents, configuration, delegations, doctor, elsewhere, events, exec, health, logs, memories,
        notify, operations, orders, registry, sweeps, tokens, trash, workspaces,
    },
    server::admission,
};

/// Builds the router with all routes, for a listener or for a test without one.
pub fn router(api: Api) -> Router {
    let routes: Router = public_routes()
        .merge(heartbeat_routes())
        .merge(for_agents().route_layer(middleware::from_fn_with_state(api.clone(), admission::other)))
        .merge(messages().route_layer(middleware::from_fn_with_state(api.clone(), admission::message)))
        .merge(elsewhere::routes())
        .merge(for_admins().route_layer(middleware::from_fn_with_state(api.clone(), auth::only_admins)))
        .method_not_allowed_fallback(|| async {
            HttpError::new(StatusCode::METHOD_NOT_ALLOWED, "method not allowed for this route")
        })
        .with_state(api);
    let again = routes.clone().fallback(no_route);
    // A path is normalized and routed again only if no route matches it. So requests with a normal path have no
    // additional cost.
    routes.fallback(move |request: Request| async move {
        match single_slashes(request.uri()) {
            Some(uri) => {
                let (mut parts, body) = request.into_parts();
                parts.uri = uri;
                let mut again = again;
                // `poll_ready` is not needed: a router is always ready.
                again.call(Request::from_parts(parts, body)).await.into_response()
            }
            None => no_route().await.into_response(),
        }
    })
}

async fn no_route() -> HttpError {
    HttpError::not_found("no such route")
}

/// Returns the URI without the doubled slashes that clients produce from a base URL ending in `/`; `None` if there are
/// none.
///
/// Doubled slashes are dropped at the beginning of a path, and anywhere in paths below `/registry`. In other paths an
/// empty segment is a missing id. If the segment were dropped, the path would name another resource:
/// `DELETE /workspaces//tokens` must not remove a workspace named `tokens`.
fn single_slashes(uri: &Uri) -> Option<Uri> {
    let path = uri.path();
    let from_root = path.trim_start_matches('/');
    let mut single = String::with_capacity(path.len());
    for part in from_root.split('/') {
        if part.is_empty() && single.starts_with("/registry") {
            continue;
        }
        single.push('/');
        single.push_str(part);
    }
    if single == path {
        return None;
    }
    if let Some(query) = uri.query() {
        single.push('?');
        single.push_str(query);
    }
    single.parse().ok()
}

fn public_routes() -> Router<Api> {
    Router::new().route("/health", get(health::show)).route("/ready", get(health::ready))
}

/// Heartbeat and registration: never refused because of other in-flight requests, of the same workspace or another.
fn heartbeat_routes() -> Router<Api> {
    Router::new()
        .route("/registry/heartbeat", post(registry::heartbeat))
        .route("/registry/register", post(registry::register))
}

fn messages() -> Router<Api> {
    Router::new().route("/workspaces/{reference}/a2a", post(handler::message))
}

fn for_agents() -> Router<Api> {
    Router::new()
        .route("/registry/update-card", post(registry::update_card))
        .route("/registry/check-access", post(registry::check_access))
        .route("/registry/discover/{id}", get(registry::discover))
        .route("/registry/{id}/peers", get(registry::peers))
        .route("/workspaces/{reference}", get(workspaces::show).patch(workspaces::update))
        .route("/workspaces/{reference}/activity", get(agents::activity).post(agents::log_activity))
        .route("/workspaces/{reference}/activity/ack", post(agents::acknowledge))
        .route("/workspaces/{reference}/delegate", post(delegations::delegate))
        .route("/workspaces/{reference}/delegations", get(delegations::list))
        .route("/workspaces/{reference}/delegations/record", post(delegations::record))
        .route("/workspaces/{reference}/delegations/{delegation}/update", post(delegations::update))
        .route("/workspaces/{reference}/notify", post(notify::notify))
        .route("/workspaces/{reference}/memories", get(memories::list).post(memories::remember))
        .route("/workspaces/{reference}/memories/{memory}", delete(memories::forget))
        .route("/workspaces/{reference}/v2/memories/{memory}", delete(memories::forget))
        .route("/workspaces/{reference}/hibernate", post(orders::hibernate))
        .route("/workspaces/{reference}/restart", post(orders::restart))
        .route("/workspaces/{reference}/state", get(agents::state))
}

fn for_admins() -> Router<Api> {
    Router::new()
        .route("/workspaces", get(workspaces::list).post(workspaces::create))
        .route("/workspaces/{reference}", delete(workspaces::remove))
        .route("/workspaces/{reference}/start", post(orders::resume))
        .route("/workspaces/{reference}/resume", post(orders::resume))
        .route("/workspaces/{reference}/stop", post(orders::pause))
        .route("/workspaces/{reference}/pause", post(orders::pause))
        .route("/workspaces/{reference}/wake", post(orders::wake))
        .route("/workspaces/{reference}/recreate", post(orders::recreate))
        .route("/workspaces/{reference}/undelete", post(orders::undelete))
        .route("/workspaces/{reference}/logs", get(logs::stream))
        .route("/workspaces/{reference}/exec", post(exec::create))
        .route("/workspaces/{reference}/tokens", get(tokens::list).post(tokens::issue))
        .route("/workspaces/{reference}/tokens/{token}", delete(tokens::revoke))
        .route("/admin/tokens", get(tokens::list_admin).post(tokens::issue_admin))
        .route("/admin/tokens/{token}", delete(tokens::revoke_admin))
        .route("/exec/{id}", get(exec::show))
        .route("/exec/{id}/start", post(exec::start))
        .route("/exec/{id}/resize", post(exec::resize))
        .route("/operations", get(operations::list))
        .route("/operations/{id}", get(operations::show))
        .route("/operations/{id}/cancel", post(operations::cancel))
        .route("/trash", get(trash::list))
        .route("/trash/empty", post(trash::empty))
        .route("/trash/{entry}/restore", post(trash::restore))
        .route("/adopt", post(adopt::adopt))
        .route("/sweeps", get(sweeps::list))
        .route("/sweeps/run", post(sweeps::run))
        .route("/sweeps/{pass}", get(sweeps::show))
        .route("/sweeps/{pass}/approve", post(sweeps::approve))
        .route("/events", get(events::list))
        .route("/events/stream", get(events::stream))
        .route("/events/{reference}", get(events::list_of))
        .route("/config", get(configuration::show))
        .route("/reload", post(configuration::reload))
        .route("/doctor", get(doctor::show))
        .route("/doctor/accept-engine", post(doctor::accept_engine))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn double_slashes_are_removed_unless_an_id_may_be_missing() {
        for (path, single) in [
            ("/registry/heartbeat", None),
            ("//registry/heartbeat", Some("/registry/heartbeat")),
            ("///registry//heartbeat", Some("/registry/heartbeat")),
            ("/registry//x//peers?q=a//b", Some("/registry/x/peers?q=a//b")),
            ("//workspaces/x/a2a", Some("/workspaces/x/a2a")),
            ("/workspaces//tokens", None),
            ("//workspaces//tokens", Some("/workspaces//tokens")),
        ] {
            let found = single_slashes(&path.parse().unwrap()).map(|uri| uri.to_string());
            assert_eq!(found.as_deref(), single, "{path}");
        }
    }
}
