//! Memories (§14).

use serde_json::{Value, json};

use crate::support::{
    registry::{AgentClient, Registry},
    wire::{Answer, Ask, keys_of},
};

async fn remember(client: &AgentClient<'_>, body: Value) -> Answer {
    client.ask(Ask::post(format!("/workspaces/{}/memories", client.id)).json(body)).await
}

async fn recall(client: &AgentClient<'_>, query: &str) -> Vec<Value> {
    let ask = Ask::get(format!("/workspaces/{}/memories{query}", client.id));
    client.ask(ask).await.well().as_array().expect("a bare array").clone()
}

fn contents(rows: &[Value]) -> Vec<&str> {
    rows.iter().map(|row| row["content"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_can_be_created_listed_and_deleted() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    assert!(recall(&one, "").await.is_empty());
    let created = remember(&one, json!({ "content": "tea", "scope": "LOCAL" })).await;
    let created = created.has(201, &["id", "namespace", "scope"]);
    assert_eq!(created["scope"], "LOCAL");
    remember(&one, json!({ "content": "Coffee", "scope": "LOCAL", "namespace": "drinks" })).await.json();
    let all = recall(&one, "").await;
    assert_eq!(contents(&all), ["Coffee", "tea"], "newest first");
    assert_eq!(keys_of(&all[0]), ["content", "created_at", "id", "namespace", "scope", "workspace_id"]);
    for (query, expected) in [
        ("?q=coff", 1),
        ("?q=%25", 0),
        ("?namespace=drinks", 1),
        ("?namespace=drinks&q=tea", 0),
        ("?limit=1", 1),
        ("?limit=50", 2),
        ("?limit=x", 2),
        ("?scope=LOCAL", 2),
        ("?scope=TEAM", 0),
    ] {
        assert_eq!(recall(&one, query).await.len(), expected, "{query}");
    }
    let two = registry.online("two").await;
    let delete = |version: &str, of: &AgentClient<'_>| {
        Ask::new(
            "DELETE",
            format!("/workspaces/{}{version}/memories/{}", of.id, created["id"].as_str().unwrap()),
        )
    };
    let missing = "memory not found or not owned by this workspace";
    two.ask(delete("", &two)).await.refuses(404, missing);
    one.ask(delete("/v2", &one)).await.is(200, r#"{"status":"deleted"}"#);
    one.ask(delete("", &one)).await.refuses(404, missing);
    assert_eq!(recall(&one, "").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn memories_are_visible_according_to_their_scope() {
    let registry = Registry::start().await;
    let root = registry.online("root").await;
    let (one, two) = (registry.online_below("one", &root).await, registry.online_below("two", &root).await);
    let below = registry.online_below("below", &one).await;
    let unrelated = registry.online("unrelated").await;
    for (of, name) in
        [(&root, "root"), (&one, "one"), (&two, "two"), (&below, "below"), (&unrelated, "unrelated")]
    {
        for scope in ["LOCAL", "TEAM"] {
            let created = remember(of, json!({ "content": format!("{name} {scope}"), "scope": scope })).await;
            assert_eq!(created.status, 201, "{created:?}");
        }
    }
    for (of, team) in [
        (&one, vec!["two TEAM", "one TEAM", "root TEAM"]),
        (&root, vec!["two TEAM", "one TEAM", "root TEAM"]),
        (&below, vec!["below TEAM", "one TEAM"]),
        (&unrelated, vec!["unrelated TEAM"]),
    ] {
        assert_eq!(contents(&recall(of, "?scope=TEAM").await), team);
        assert_eq!(recall(of, "?scope=LOCAL").await.len(), 1);
        assert_eq!(recall(of, "").await.len(), 2, "without a filter, a workspace reads its own memories");
    }
    let refused = remember(&one, json!({ "content": "c", "scope": "GLOBAL" })).await;
    refused.refuses(403, "only root workspaces can write GLOBAL memories");
    let created = remember(&root, json!({ "content": "rule", "scope": "GLOBAL" })).await;
    let id = created.json()["id"].as_str().unwrap().to_owned();
    let prefix = format!("[MEMORY id={id} scope=GLOBAL from={}]: rule", root.id);
    assert_eq!(contents(&recall(&unrelated, "?scope=GLOBAL").await), [prefix.as_str()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_or_excess_memories_are_refused() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    for (body, error) in [
        (json!({ "scope": "LOCAL" }), "invalid request body"),
        (json!({ "content": "c" }), "scope must be LOCAL, TEAM, or GLOBAL"),
        (json!({ "content": "c", "scope": "local" }), "scope must be LOCAL, TEAM, or GLOBAL"),
        (
            json!({ "content": "c", "scope": "LOCAL", "namespace": "n".repeat(51) }),
            "namespace must be <= 50 characters",
        ),
    ] {
        remember(&one, body).await.refuses(400, error);
    }
    let large = "x".repeat(32 << 10);
    let refused = remember(&one, json!({ "content": format!("{large}x"), "scope": "LOCAL" })).await;
    assert_eq!(refused.status, 413, "{refused:?}");
    let of = one.id.parse().unwrap();
    for number in 0..128_u128 {
        let memory = ostler::store::Memory {
            id: ostler::domain::ids::MemoryId(uuid::Uuid::from_u128(number)),
            workspace: of,
            content: large.clone(),
            scope: ostler::domain::memory::Scope::Local,
            namespace: "n".into(),
            created_at: registry.clock.now(),
        };
        assert_eq!(registry.store.remember(memory).await.unwrap(), ostler::store::Remembered::Stored);
    }
    let full = remember(&one, json!({ "content": "c", "scope": "LOCAL" })).await;
    assert_eq!(full.status, 507, "{full:?}");
    assert_eq!(recall(&one, "?limit=3").await.len(), 3, "a refused memory evicted others");
}
