//! Discovery of peers, and permission to communicate (§4).

use serde_json::{Value, json};

use crate::support::{
    registry::{AgentClient, Options, Registry},
    wire::{Answer, Ask, keys_of},
};

impl AgentClient<'_> {
    async fn discovers(&self, id: &str) -> Answer {
        self.ask(Ask::get(format!("/registry/discover/{id}")).header("X-Workspace-ID", &self.id)).await
    }

    /// Names of this workspace's peers, in the order of the response.
    async fn peers(&self, query: &str) -> Vec<String> {
        let peers = self.ask(Ask::get(format!("/registry/{}/peers{query}", self.id))).await.well();
        peers.as_array().unwrap().iter().map(|peer| peer["name"].as_str().unwrap().to_owned()).collect()
    }
}

fn proxied(id: &str) -> String {
    // The base url that the caller used: the host named in its request.
    format!("http://ostler.test/workspaces/{id}/a2a")
}

#[tokio::test(flavor = "multi_thread")]
async fn discover_returns_the_proxy_url_of_a_peer() {
    let registry = Registry::start().await;
    let (one, other) = (registry.online("one").await, registry.online("other").await);
    let found = one.discovers(&other.id).await.has(200, &["id", "url", "name"]);
    assert_eq!(found, json!({ "id": other.id, "url": proxied(&other.id), "name": "other" }));
}

#[tokio::test(flavor = "multi_thread")]
async fn discover_requires_the_workspace_id_of_its_caller() {
    let registry = Registry::start().await;
    let (one, other) = (registry.online("one").await, registry.online("other").await);
    let path = format!("/registry/discover/{}", other.id);
    let required = "X-Workspace-ID header is required";
    one.ask(Ask::get(&path)).await.refuses(400, required);
    for value in ["", "one", &one.id.replace('-', ""), &format!("{} ", &one.id[1..])] {
        one.ask(Ask::get(&path).header("X-Workspace-ID", value)).await.refuses(400, required);
    }
    let as_other = Ask::get(&path).header("X-Workspace-ID", &other.id);
    one.ask(as_other).await.refuses(401, "invalid workspace auth token");
    let unauthenticated = Ask::get(&path).header("X-Workspace-ID", &one.id);
    registry.ask(unauthenticated).await.refuses(401, "missing workspace auth token");
}

#[tokio::test(flavor = "multi_thread")]
async fn discover_refuses_targets_outside_the_hierarchy_rules() {
    let registry = Registry::start().await;
    let root = registry.online("root").await;
    let (left, right) =
        (registry.online_below("left", &root).await, registry.online_below("right", &root).await);
    let nephew = registry.online_below("nephew", &left).await;
    let other_root = registry.online("other root").await;
    for (caller, target) in
        [(&right, &nephew), (&nephew, &right), (&nephew, &other_root), (&other_root, &left)]
    {
        caller.discovers(&target.id).await.refuses(403, "not authorized to discover this workspace");
    }
    for (caller, target) in
        [(&left, &right), (&root, &nephew), (&nephew, &root), (&root, &other_root), (&left, &left)]
    {
        assert_eq!(caller.discovers(&target.id).await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn discover_does_not_find_unknown_or_removed_workspaces() {
    let registry = Registry::start().await;
    let (one, other) = (registry.online("one").await, registry.online("other").await);
    for id in ["6f1c0c5e-0d0f-4c58-9b0e-0a4c1b7e2d11", "other", &other.id.replace('-', ""), &other.id[..8]] {
        one.discovers(id).await.refuses(404, "workspace not found");
    }
    registry.order(Ask::new("DELETE", format!("/workspaces/{}", other.id))).await.well();
    one.discovers(&other.id).await.refuses(404, "workspace not found");
}

#[tokio::test(flavor = "multi_thread")]
async fn discover_answers_503_when_target_is_paused_or_has_no_agent() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    let paused = registry.online("paused").await;
    paused.order("pause").await.well();
    let away = registry.external("away", json!({})).await;
    for (target, status) in [(&paused, "paused"), (&away, "awaiting_agent")] {
        let answer = one.discovers(&target.id).await;
        answer.is(503, &format!(r#"{{"error":"workspace not available","status":"{status}"}}"#));
    }
    let hibernated = registry.online("hibernated").await;
    hibernated.order("hibernate").await.well();
    let starting = registry.begun("starting", json!({})).await;
    for target in [&hibernated, &starting] {
        assert_eq!(
            one.discovers(&target.id).await.well()["url"],
            proxied(&target.id),
            "a starting or hibernated target has a proxy url"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_are_siblings_children_and_parent() {
    let registry = Registry::start().await;
    let root = registry.online("root").await;
    assert_eq!(root.peers("").await, Vec::<String>::new());
    let path = format!("/registry/{}/peers", root.id);
    root.ask(Ask::get(&path)).await.is(200, "[]");
    let left = registry.online_with("left", json!({ "parent_id": root.id, "role": "digs" })).await;
    let right = registry.online_below("right", &root).await;
    let nephew = registry.online_below("nephew", &left).await;
    let other_root = registry.online("other root").await;
    assert_eq!(left.peers("").await, ["right", "nephew", "root"]);
    assert_eq!(root.peers("").await, ["other root", "left", "right"]);
    assert_eq!(nephew.peers("").await, ["left"]);
    assert_eq!(other_root.peers("").await, ["root"]);

    left.heartbeat(json!({ "active_tasks": 2, "uptime_seconds": 1 })).await.well();
    left.register(json!({ "agent_card": { "name": "card" } })).await.well();
    let peers = right.ask(Ask::get(format!("/registry/{}/peers", right.id))).await.well();
    let keys = ["active_tasks", "agent_card", "id", "name", "parent_id", "role", "status", "tier", "url"];
    for peer in peers.as_array().unwrap() {
        assert_eq!(keys_of(peer), keys, "{peer}");
    }
    assert_eq!(
        peers[0],
        json!({
            "id": left.id, "name": "left", "role": "digs", "tier": 2, "status": "online", "url": proxied(&left.id),
            "parent_id": root.id, "active_tasks": 2, "agent_card": { "name": "card" },
        })
    );
    let (role, parent, card) = (&peers[1]["role"], &peers[1]["parent_id"], &peers[1]["agent_card"]);
    assert_eq!((role, parent, card), (&Value::Null, &Value::Null, &Value::Null), "{peers}");

    registry.order(Ask::new("DELETE", format!("/workspaces/{}", right.id))).await.well();
    assert_eq!(left.peers("").await, ["nephew", "root"], "a removed workspace is listed as a peer");
}

#[tokio::test(flavor = "multi_thread")]
async fn peer_search_matches_names_and_roles_in_any_case() {
    let registry = Registry::start().await;
    let root = registry.online("root").await;
    for (name, role) in [("Digger", "earth"), ("cook", "DIGESTIVES"), ("pilot", "")] {
        registry.create(name, json!({ "external": true, "role": role })).await;
    }
    assert_eq!(root.peers("?q=dig").await, ["Digger", "cook"]);
    assert_eq!(root.peers("?q=DIG").await, ["Digger", "cook"]);
    assert_eq!(root.peers("?q=").await, ["Digger", "cook", "pilot"]);
    assert_eq!(root.peers("?q=%25").await, Vec::<String>::new(), "`%` was treated as a pattern");
    assert_eq!(root.peers("?q=_").await, Vec::<String>::new());
    assert_eq!(root.peers("?q=missing").await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn root_workspaces_are_not_peers_when_setting_is_off() {
    let mut options = Options::default();
    options.access.root_siblings = false;
    let registry = Registry::wanting(options).await;
    let (one, other) = (registry.online("one").await, registry.online("other").await);
    assert_eq!(one.peers("").await, Vec::<String>::new());
    one.discovers(&other.id).await.refuses(403, "not authorized to discover this workspace");
    let message = one.send_message(&other, json!({ "method": "x" })).await;
    message.refuses(403, "access denied: workspaces cannot communicate per hierarchy rules");
}

#[tokio::test(flavor = "multi_thread")]
async fn access_rules_change_when_settings_are_replaced() {
    let registry = Registry::start().await;
    let (one, _other) = (registry.online("one").await, registry.online("other").await);
    assert_eq!(one.peers("").await, ["other"]);
    let mut settings = (*registry.ops.settings()).clone();
    settings.access.root_siblings = false;
    registry.ops.replace_settings(settings);
    assert_eq!(one.peers("").await, [""; 0], "roots are still peers");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_access_is_limited_to_admins_and_the_caller_itself() {
    let registry = Registry::start().await;
    let root = registry.online("root").await;
    let left = registry.online_below("left", &root).await;
    let nephew = registry.online_below("nephew", &left).await;
    let other_root = registry.online("other root").await;
    let unknown = "6f1c0c5e-0d0f-4c58-9b0e-0a4c1b7e2d11";
    let check = |caller: &str, target: &str| {
        Ask::post("/registry/check-access").json(json!({ "caller_id": caller, "target_id": target }))
    };
    for (caller, target, allowed) in [
        (&root.id, root.id.as_str(), true),
        (&root.id, &nephew.id, true),
        (&nephew.id, &root.id, true),
        (&root.id, &other_root.id, true),
        (&left.id, &other_root.id, false),
        (&left.id, unknown, false),
    ] {
        let answer = registry.order(check(caller, target)).await;
        answer.is(200, &format!(r#"{{"allowed":{allowed}}}"#));
    }
    left.ask(check(&left.id, &root.id)).await.is(200, r#"{"allowed":true}"#);
    left.ask(check(&root.id, &left.id)).await.refuses(401, "invalid workspace auth token");
    registry.ask(check(&left.id, &root.id)).await.refuses(401, "missing workspace auth token");
    left.ask(Ask::post("/registry/check-access").body("{}")).await.refuses(400, "invalid request body");
    registry.order(Ask::new("DELETE", format!("/workspaces/{}", other_root.id))).await.well();
    registry.order(check(&root.id, &other_root.id)).await.is(200, r#"{"allowed":false}"#);
}
