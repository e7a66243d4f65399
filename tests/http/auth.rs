//! Authentication and authorisation of every route (§2, §3).

use std::{fs, path::Path};

use serde_json::json;

use crate::support::{
    registry::{AgentClient, Registry},
    wire::Ask,
};

/// A route in the router's source.
struct Route {
    method: String,
    path: String,
}

impl Route {
    /// The path with its parameters filled in.
    fn filled(&self, id: &str) -> String {
        let path = self.path.replace("{reference}", id);
        let path = path.replace("{token}", "0a57").replace("{entry}", id).replace("{pass}", "settle");
        path.replace("{id}", id)
    }
}

/// Every route, read from the router's source.
fn routes() -> Vec<Route> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/http/router.rs");
    let source = fs::read_to_string(source).expect("the router's source can be read");
    let mut routes = Vec::new();
    for line in source.split(".route(").skip(1) {
        let Some((path, handlers)) =
            line.trim_start().strip_prefix('"').and_then(|rest| rest.split_once('"'))
        else {
            continue;
        };
        for method in ["get", "post", "patch", "delete", "put"] {
            let named = [format!(", {method}("), format!(".{method}(")];
            if named.iter().any(|call| handlers.lines().next().unwrap().contains(call)) {
                routes.push(Route { method: method.to_uppercase(), path: path.to_owned() });
            }
        }
    }
    assert!(routes.len() > 40, "too few routes were found in the router's source: {}", routes.len());
    routes
}

const OPEN: [&str; 2] = ["/health", "/ready"];

#[tokio::test(flavor = "multi_thread")]
async fn only_health_and_ready_answer_without_a_token() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    for route in routes() {
        let ask = Ask::new(&route.method, route.filled(&one.id)).header("X-Workspace-ID", &one.id);
        let answer = registry.ask(ask.json(json!({}))).await;
        if OPEN.contains(&route.path.as_str()) {
            assert_eq!(answer.status, 200, "{} {}", route.method, route.path);
        } else {
            answer.refuses(401, "missing workspace auth token");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_token_is_refused_on_every_route() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    let mut unknown = one.token.clone().into_bytes();
    unknown[10] = if unknown[10] == b'A' { b'B' } else { b'A' };
    let unknown = String::from_utf8(unknown).unwrap();
    for route in routes().iter().filter(|route| !OPEN.contains(&route.path.as_str())) {
        let ask = Ask::new(&route.method, route.filled(&one.id)).header("X-Workspace-ID", &one.id);
        let answer = registry.ask(ask.token(&unknown).json(json!({}))).await;
        answer.refuses(401, "invalid workspace auth token");
    }
}

/// Returns a request body with the id `other` in every field that identifies a workspace.
fn body_about(path: &str, other: &str) -> serde_json::Value {
    match path {
        "/registry/heartbeat" => json!({ "workspace_id": other }),
        "/registry/register" => json!({ "id": other, "url": "", "agent_card": {} }),
        "/registry/update-card" => json!({ "workspace_id": other, "agent_card": {} }),
        "/registry/check-access" => json!({ "caller_id": other, "target_id": other }),
        _ => json!({}),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn token_is_refused_for_another_workspace_except_on_peer_routes() {
    let registry = Registry::start().await;
    let (one, other) = (registry.online("one").await, registry.online("other").await);
    // Peers may read each other's workspace and send messages to each other.
    let of_peers = [("GET", "/workspaces/{reference}"), ("POST", "/workspaces/{reference}/a2a")];
    for route in routes().iter().filter(|route| !OPEN.contains(&route.path.as_str())) {
        if of_peers.contains(&(route.method.as_str(), route.path.as_str())) {
            continue;
        }
        let about = |named: &AgentClient<'_>| {
            Ask::new(&route.method, route.filled(&named.id))
                .header("X-Workspace-ID", &named.id)
                .json(body_about(&route.path, &named.id))
        };
        let answer = one.ask(about(&other)).await;
        if answer.status == 403 {
            answer.refuses(403, "only an admin may do this");
        } else {
            answer.refuses(401, "invalid workspace auth token");
        }
    }
    let (view, before) = (other.show().await, registry.status(&other.id).await);
    assert_eq!((before.as_str(), &view["agent_card"]), ("online", &json!(null)), "{view}");
    // A workspace cannot send as another workspace.
    let forged = Ask::post(format!("/workspaces/{}/a2a", other.id)).header("X-Workspace-ID", &other.id);
    one.ask(forged.json(json!({ "method": "x" }))).await.refuses(401, "invalid workspace auth token");
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_bearer_credentials_are_refused() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    let state = || Ask::get(format!("/workspaces/{}/state", one.id));
    let token = &one.token;
    one.ask(state()).await.well();
    for value in [
        format!("Bearer\t{token}"),
        format!("Bearer{token}"),
        format!("Basic {token}"),
        format!("Token {token}"),
        token.clone(),
        "Bearer".into(),
        "Bearer  ".into(),
        String::new(),
    ] {
        let answer = registry.ask(state().header("Authorization", &value)).await;
        assert_eq!(answer.text(), r#"{"error":"missing workspace auth token"}"#, "`{value}`");
        assert_eq!(answer.status, 401, "`{value}`");
    }
    for value in [
        format!("Bearer {token}x"),
        format!("Bearer {token}="),
        format!("Bearer {}", &token[1..]),
        format!("Bearer {token} {token}"),
        format!("Bearer {token},Bearer {token}"),
        "Bearer ".to_owned() + &"A".repeat(43),
        "Bearer ".to_owned() + &"A".repeat(8000),
    ] {
        let answer = registry.ask(state().header("Authorization", &value)).await;
        answer.refuses(401, "invalid workspace auth token");
    }
    let twice = registry.ask(state().token(token).token(token)).await;
    twice.refuses(401, "missing workspace auth token");
    let elsewhere = registry.ask(Ask::get(format!("/workspaces/{}/state?token={token}", one.id))).await;
    elsewhere.refuses(401, "missing workspace auth token");
    let cookie = registry.ask(state().header("Cookie", format!("token={token}"))).await;
    cookie.refuses(401, "missing workspace auth token");
}

#[tokio::test(flavor = "multi_thread")]
async fn bearer_scheme_accepts_any_case_and_extra_spaces() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    for scheme in ["bearer ", "BEARER ", "bEARER  ", "Bearer    ", "Bearer \t "] {
        let state = Ask::get(format!("/workspaces/{}/state", one.id));
        let answer = registry.ask(state.header("Authorization", format!("{scheme}{}", one.token))).await;
        assert_eq!(answer.status, 200, "`{scheme}`: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_are_case_insensitive_in_path_header_and_body() {
    let registry = Registry::start().await;
    let (one, other) = (registry.online("one").await, registry.online("other").await);
    let (own, peer) = (one.id.to_uppercase(), other.id.to_uppercase());
    for (path, body) in [
        ("/registry/heartbeat", json!({ "workspace_id": own })),
        ("/registry/register", json!({ "id": own, "url": "", "agent_card": {} })),
        ("/registry/update-card", json!({ "workspace_id": own, "agent_card": {} })),
        ("/registry/check-access", json!({ "caller_id": own, "target_id": peer })),
    ] {
        one.ask(Ask::post(path).json(body)).await.well();
    }
    for path in ["", "/state", "/activity", "/delegations"] {
        one.ask(Ask::get(format!("/workspaces/{own}{path}"))).await.well();
    }
    one.ask(Ask::get(format!("/registry/{own}/peers"))).await.well();
    let found = one.ask(Ask::get(format!("/registry/discover/{peer}")).header("X-Workspace-ID", &own)).await;
    assert_eq!(found.well()["id"], json!(other.id), "ids are returned in lower case");
    for path in [format!("/workspaces/{own}"), format!("/events/{own}"), format!("/workspaces/{}", &own[..8])]
    {
        registry.order(Ask::get(path)).await.well();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_slashes_are_accepted_in_a_base_url_only() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    let heartbeat = || json!({ "workspace_id": one.id });
    for path in ["//registry/heartbeat", "///registry//heartbeat"] {
        one.ask(Ask::post(path).json(heartbeat())).await.is(200, r#"{"status":"ok"}"#);
    }
    one.ask(Ask::get(format!("//workspaces/{}/state", one.id))).await.well();
    registry
        .ask(Ask::post("//registry/heartbeat").json(heartbeat()))
        .await
        .refuses(401, "missing workspace auth token");
    let admins = Ask::new("DELETE", format!("//workspaces/{}", one.id));
    one.ask(admins).await.refuses(403, "only an admin may do this");
    // In other paths an empty segment is a missing id. Such a path must not address a workspace with the name `tokens`.
    registry.online("tokens").await;
    let answer = registry.order(Ask::new("DELETE", "/workspaces//tokens")).await;
    assert!((400..500).contains(&answer.status), "{answer:?}");
    registry.order(Ask::get("/workspaces/tokens")).await.well();
}

#[tokio::test(flavor = "multi_thread")]
async fn health_shows_version_and_pid_to_admins_only() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    for answer in [registry.ask(Ask::get("/health")).await, one.ask(Ask::get("/health")).await] {
        answer.has(200, &["status", "registry"]);
    }
    registry.order(Ask::get("/health")).await.has(200, &["status", "registry", "version", "pid"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_routes_refuse_admins_and_admin_routes_refuse_agents() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    for path in ["/registry/heartbeat", "/registry/register", "/registry/update-card"] {
        let answer = registry.order(Ask::post(path).json(body_about(path, &one.id))).await;
        answer.refuses(401, "invalid workspace auth token");
    }
    for (method, path) in [("GET", "/workspaces"), ("GET", "/events"), ("POST", "/admin/tokens")] {
        one.ask(Ask::new(method, path)).await.refuses(403, "only an admin may do this");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn revoked_and_expired_tokens_are_refused() {
    let registry = Registry::start().await;
    let one = registry.external("one", json!({})).await;
    one.heartbeat(json!({})).await.is(200, r#"{"status":"ok"}"#);
    let tokens = registry.order(Ask::get(format!("/workspaces/{}/tokens", one.id))).await.well();
    let token = tokens["tokens"][0]["id"].as_str().unwrap();
    let path = format!("/workspaces/{}/tokens/{token}", one.id);
    registry.order(Ask::new("DELETE", path)).await.is(200, r#"{"status":"revoked"}"#);
    one.heartbeat(json!({})).await.refuses(401, "invalid workspace auth token");
    one.register(json!({ "url": "" })).await.refuses(401, "invalid workspace auth token");

    let lasting =
        Ask::post(format!("/workspaces/{}/tokens", one.id)).json(json!({ "expires_in_seconds": 1 }));
    let issued = registry.order(lasting).await;
    let token = issued.has(201, &["auth_token", "workspace_id"])["auth_token"].as_str().unwrap().to_owned();
    let one = AgentClient { token, ..one };
    crate::support::registry::until("the token expires", async || {
        (one.heartbeat(json!({})).await.status == 401).then_some(())
    })
    .await;
    one.heartbeat(json!({})).await.refuses(401, "invalid workspace auth token");
}

#[tokio::test(flavor = "multi_thread")]
async fn token_of_a_removed_workspace_only_reports_the_removal() {
    let registry = Registry::start().await;
    let (one, other) = (registry.online("one").await, registry.online("other").await);
    let removed = registry.order(Ask::new("DELETE", format!("/workspaces/{}", one.id))).await;
    assert_eq!(removed.well()["status"], "removed");
    one.heartbeat(json!({})).await.refuses(410, "workspace removed");
    one.register(json!({})).await.refuses(410, "workspace removed");
    let card = Ask::post("/registry/update-card");
    one.ask(card.json(json!({ "workspace_id": one.id, "agent_card": {} })))
        .await
        .refuses(410, "workspace removed");
    let state = one.ask(Ask::get(format!("/workspaces/{}/state", one.id))).await;
    assert_eq!((state.status, state.json()), (404, json!({ "workspace_id": one.id, "deleted": true })));
    let as_other = AgentClient { id: other.id.clone(), ..one.clone() };
    as_other.heartbeat(json!({})).await.refuses(401, "invalid workspace auth token");
    for route in routes().iter().filter(|route| !OPEN.contains(&route.path.as_str())) {
        if route.path.ends_with("/state") || body_about(&route.path, "").get("workspace_id").is_some() {
            continue;
        }
        let ask = Ask::new(&route.method, route.filled(&other.id)).header("X-Workspace-ID", &one.id);
        one.ask(ask.json(json!({}))).await.refuses(401, "invalid workspace auth token");
    }
    assert_eq!(one.status().await, "removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn restart_issues_a_new_token_and_revokes_the_old_one() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    assert_eq!(one.token.len(), 43);
    one.order("restart").await.well();
    let token = registry.token_in_volume(&one.id).await;
    assert_ne!(token, one.token);
    one.heartbeat(json!({})).await.refuses(401, "invalid workspace auth token");
    assert_eq!(
        one.status().await,
        "provisioning",
        "a token of the previous incarnation brought the workspace online"
    );
    let one = AgentClient { token, ..one };
    one.heartbeat(json!({})).await.is(200, r#"{"status":"ok"}"#);
    assert_eq!(one.status().await, "online");
}
