//! Reports of agents (§4): register, heartbeat, card.

use serde_json::{Value, json};

use crate::support::{
    registry::{AgentClient, Options, Registry},
    wire::Ask,
};

const OK: &str = r#"{"status":"ok"}"#;
const REGISTERED: &str = r#"{"status":"registered"}"#;

/// A complete heartbeat without problems.
fn full() -> Value {
    json!({ "error_rate": 0.0, "uptime_seconds": 60, "runtime_metadata": {} })
}

/// The heartbeat that a runtime sends when its task changes.
fn partial(task: &str, tasks: u32) -> Value {
    json!({
        "error_rate": 0, "sample_error": "", "active_tasks": tasks, "uptime_seconds": 0, "current_task": task,
    })
}

impl AgentClient<'_> {
    async fn heartbeat_ok(&self, more: Value) {
        self.heartbeat(more).await.is(200, OK);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeat_fields_are_stored_and_shown() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    one.heartbeat_ok(json!({
        "error_rate": 0.25, "sample_error": "oops", "active_tasks": 3, "uptime_seconds": 77,
        "current_task": "digging", "monthly_spend": 1234, "runtime_state": "",
    }))
    .await;
    let view = one.show().await;
    for (field, value) in [
        ("last_error_rate", json!(0.25)),
        ("last_sample_error", json!("oops")),
        ("active_tasks", json!(3)),
        ("uptime_seconds", json!(77)),
        ("current_task", json!("digging")),
        ("monthly_spend", json!(1234)),
        ("runtime_state", json!("")),
        ("status", json!("online")),
    ] {
        assert_eq!(view[field], value, "{field} of {view}");
    }
    assert!(view["last_heartbeat_at"].is_string(), "{view}");
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeat_numbers_are_clamped_and_texts_cut_at_2_kib() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    let long = "é".repeat(4000);
    one.heartbeat_ok(json!({
        "error_rate": -3, "active_tasks": -1, "uptime_seconds": -5, "monthly_spend": -7,
        "sample_error": long, "current_task": long,
    }))
    .await;
    let view = one.show().await;
    assert_eq!((&view["last_error_rate"], &view["active_tasks"]), (&json!(0.0), &json!(0)), "{view}");
    assert_eq!((&view["uptime_seconds"], &view["monthly_spend"]), (&json!(0), &json!(0)), "{view}");
    let cut = json!("é".repeat(1024));
    assert_eq!((&view["last_sample_error"], &view["current_task"]), (&cut, &cut));

    one.heartbeat_ok(
        json!({ "error_rate": 17.5, "active_tasks": 1e30, "uptime_seconds": 1e30, "monthly_spend": 1e18 }),
    )
    .await;
    let view = one.show().await;
    assert_eq!(view["last_error_rate"], json!(1.0));
    assert_eq!(view["monthly_spend"], json!(1_000_000_000_000_u64), "spend is limited to 10^12 cents");
    assert_eq!(view["active_tasks"], json!(u32::MAX));
}

#[tokio::test(flavor = "multi_thread")]
async fn zero_in_a_heartbeat_keeps_the_stored_uptime_and_spend() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    one.heartbeat_ok(json!({ "uptime_seconds": 500, "monthly_spend": 42 })).await;
    one.heartbeat_ok(json!({ "uptime_seconds": 0, "monthly_spend": 0 })).await;
    one.heartbeat_ok(json!({})).await;
    let view = one.show().await;
    assert_eq!((&view["uptime_seconds"], &view["monthly_spend"]), (&json!(500), &json!(42)), "{view}");
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeat_accepts_nulls_unknown_fields_and_floats() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    one.heartbeat_ok(json!({
        "error_rate": null, "sample_error": null, "active_tasks": null, "uptime_seconds": null,
        "current_task": null, "monthly_spend": null, "runtime_state": null, "runtime_metadata": null,
    }))
    .await;
    one.heartbeat_ok(json!({ "active_tasks": 2.9, "uptime_seconds": 60.7, "monthly_spend": 100.0 })).await;
    let view = one.show().await;
    assert_eq!((&view["active_tasks"], &view["uptime_seconds"]), (&json!(2), &json!(60)), "{view}");
    one.heartbeat_ok(
        json!({ "mood": "good", "nested": { "a": [1, { "b": null }] }, "error": { "rate": 1 } }),
    )
    .await;
    assert_eq!(one.status().await, "online");
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeat_with_an_invalid_body_is_refused() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    for body in [
        String::new(),
        "null".into(),
        "[]".into(),
        "{".into(),
        "{}".into(),
        r#"{"workspace_id":null}"#.into(),
        r#"{"workspace_id":7}"#.into(),
    ] {
        let answer = one.ask(Ask::post("/registry/heartbeat").body(body.clone())).await;
        assert_eq!(
            (answer.status, answer.text()),
            (400, r#"{"error":"invalid request body"}"#.into()),
            "{body}"
        );
    }
    let latin = one.ask(Ask::post("/registry/heartbeat").body(b"{\"workspace_id\":\"\xff\"}".to_vec())).await;
    latin.refuses(401, "invalid workspace auth token");
    assert_eq!(one.status().await, "online");
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeat_body_is_parsed_whatever_its_content_type() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    let body = json!({ "workspace_id": one.id, "uptime_seconds": 9 }).to_string();
    let heartbeat = || Ask::post("/registry/heartbeat").body(body.clone());
    one.ask(heartbeat()).await.is(200, OK);
    one.ask(heartbeat().header("Content-Type", "text/plain")).await.is(200, OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeat_brings_waiting_workspaces_online() {
    let registry = Registry::start().await;
    let one = registry.begun("one", json!({})).await;
    assert_eq!(one.status().await, "provisioning");
    one.heartbeat_ok(partial("", 0)).await;
    assert_eq!(one.status().await, "online", "a partial heartbeat counts as a heartbeat");
    let event = registry.event(&one.id, "WORKSPACE_ONLINE").await;
    assert_eq!(event["payload"]["recovered_from"], "provisioning", "{event}");

    let away = registry.external("away", json!({})).await;
    assert_eq!(away.status().await, "awaiting_agent");
    away.heartbeat_ok(json!({})).await;
    assert_eq!(away.status().await, "online");
    let event = registry.event(&away.id, "WORKSPACE_ONLINE").await;
    assert_eq!(event["payload"]["recovered_from"], "awaiting_agent", "{event}");
}

#[tokio::test(flavor = "multi_thread")]
async fn late_heartbeat_recovers_a_start_that_timed_out() {
    let registry = Registry::start().await;
    let one = registry.begun("one", json!({})).await;
    let row = registry.row(&one.id).await;
    let timed_out = registry.ops.time_out_provisioning(row.id, row.incarnation, row.status_since, 1).await;
    timed_out.expect("provisioning times out");
    assert_eq!(one.status().await, "failed(provision_timeout)");
    let event = registry.event(&one.id, "WORKSPACE_PROVISION_FAILED").await;
    for key in ["error", "timeout_secs", "runtime", "source", "log_tail"] {
        assert!(event["payload"].get(key).is_some(), "{key} of {event}");
    }
    one.heartbeat_ok(full()).await;
    assert_eq!(one.status().await, "online");
    let event = registry.event(&one.id, "WORKSPACE_ONLINE").await;
    assert_eq!(event["payload"]["recovered_from"], "failed", "{event}");
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeat_does_not_change_a_paused_or_hibernated_status() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    one.order("pause").await.well();
    one.heartbeat_ok(full()).await;
    assert_eq!(one.status().await, "paused");
    let two = registry.online("two").await;
    two.order("hibernate").await.well();
    two.heartbeat_ok(full()).await;
    assert_eq!(two.status().await, "hibernated");
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeat_does_not_clear_a_start_error() {
    let registry = Registry::start().await;
    let lost = json!({ "runtime": "agent", "image": "nowhere:1" });
    let made = registry.create("lost", lost).await;
    let id = made["id"].as_str().unwrap();
    registry.until_status(id, "failed(start_error)").await;
    let issued = registry.order(Ask::post(format!("/workspaces/{id}/tokens"))).await.json();
    let token = issued["auth_token"].as_str().unwrap().to_owned();
    let one = AgentClient { registry: &registry, id: id.to_owned(), token };
    one.heartbeat_ok(full()).await;
    assert_eq!(one.status().await, "failed(start_error)");
}

#[tokio::test(flavor = "multi_thread")]
async fn workspace_degrades_on_errors_and_recovers_on_a_full_heartbeat() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    one.heartbeat_ok(json!({ "error_rate": 0.49, "uptime_seconds": 1 })).await;
    assert_eq!(one.status().await, "online");
    one.heartbeat_ok(json!({ "error_rate": 0.5, "sample_error": "boom", "uptime_seconds": 1 })).await;
    assert_eq!(one.status().await, "degraded");
    let event = registry.event(&one.id, "WORKSPACE_DEGRADED").await;
    assert_eq!(event["payload"]["error_rate"], json!(0.5), "{event}");
    assert_eq!(event["payload"]["sample_error"], "boom", "{event}");
    one.heartbeat_ok(json!({ "error_rate": 0.1, "uptime_seconds": 1 })).await;
    assert_eq!(one.status().await, "degraded", "an error rate of exactly 0.1 is not below the limit of 0.1");
    one.heartbeat_ok(partial("busy", 1)).await;
    assert_eq!(one.status().await, "degraded", "a partial heartbeat does not end the degradation");
    assert_eq!(one.show().await["last_error_rate"], json!(0.1), "a partial heartbeat keeps the error rate");
    one.heartbeat_ok(json!({ "error_rate": 0.09, "uptime_seconds": 1, "runtime_state": "resting" })).await;
    assert_eq!(one.status().await, "degraded", "an unknown state blocks recovery");
    one.heartbeat_ok(json!({ "error_rate": 0.09, "uptime_seconds": 1 })).await;
    assert_eq!(one.status().await, "online");
    let event = registry.event(&one.id, "WORKSPACE_ONLINE").await;
    assert_eq!(event["payload"]["recovered_from"], "degraded", "{event}");

    one.heartbeat_ok(json!({ "runtime_state": "resting", "uptime_seconds": 1 })).await;
    assert_eq!(one.status().await, "online", "an unknown state only blocks recovery");
    one.heartbeat_ok(json!({ "runtime_state": "wedged", "uptime_seconds": 1 })).await;
    assert_eq!(one.status().await, "degraded");
    let event = registry.event(&one.id, "WORKSPACE_DEGRADED").await;
    assert_eq!(event["payload"]["runtime_state"], "wedged", "{event}");
    one.heartbeat_ok(partial("", 0)).await;
    assert_eq!(one.status().await, "degraded");
    one.heartbeat_ok(full()).await;
    assert_eq!(one.status().await, "online");
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_with_status_mgmt_is_not_degraded_by_its_error_rate() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    let managing = json!({ "capabilities": { "status_mgmt": true }, "idle_timeout_seconds": 900 });
    one.heartbeat_ok(json!({ "error_rate": 1, "runtime_metadata": managing })).await;
    assert_eq!(one.status().await, "online");
    one.heartbeat_ok(json!({ "error_rate": 1 })).await;
    assert_eq!(one.status().await, "online", "absent metadata keeps the stored metadata");
    one.heartbeat_ok(json!({ "runtime_state": "wedged", "error_rate": 1 })).await;
    assert_eq!(one.status().await, "degraded", "the reported runtime state applies");
    one.heartbeat_ok(full()).await;
    assert_eq!(one.status().await, "online");
    one.heartbeat_ok(json!({ "error_rate": 1 })).await;
    assert_eq!(one.status().await, "degraded", "status_mgmt was withdrawn");
}

#[tokio::test(flavor = "multi_thread")]
async fn partial_heartbeat_keeps_uptime_error_and_state() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    one.heartbeat_ok(
        json!({ "uptime_seconds": 900, "error_rate": 0.3, "sample_error": "oops", "runtime_state": "odd" }),
    )
    .await;
    one.heartbeat_ok(partial("a task", 1)).await;
    let view = one.show().await;
    for (field, value) in [
        ("uptime_seconds", json!(900)),
        ("last_error_rate", json!(0.3)),
        ("last_sample_error", json!("oops")),
        ("runtime_state", json!("odd")),
        ("current_task", json!("a task")),
        ("active_tasks", json!(1)),
    ] {
        assert_eq!(view[field], value, "{field} of {view}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn task_counts_as_activity_and_a_heartbeat_alone_does_not() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    let active = async || one.show().await["last_activity_at"].clone();
    let before = active().await;
    let tick = async || {
        let begun = registry.clock.now();
        let later = async || (registry.clock.now() > begun).then_some(());
        crate::support::registry::until("the clock advances", later).await;
    };
    tick().await;
    one.heartbeat_ok(full()).await;
    one.heartbeat_ok(partial("", 0)).await;
    assert_eq!(active().await, before, "a heartbeat alone is no activity");
    one.heartbeat_ok(json!({ "current_task": "new", "uptime_seconds": 1 })).await;
    let begun = active().await;
    assert_ne!(begun, before, "a changed task is activity");
    tick().await;
    one.heartbeat_ok(json!({ "current_task": "new", "uptime_seconds": 1 })).await;
    assert_eq!(active().await, begun, "an unchanged task is no activity");
    one.heartbeat_ok(json!({ "current_task": "new", "active_tasks": 1, "uptime_seconds": 1 })).await;
    assert_ne!(active().await, begun, "an active task is activity");
}

#[tokio::test(flavor = "multi_thread")]
async fn api_token_never_changes_the_status_of_a_container_workspace() {
    let registry = Registry::start().await;
    let one = registry.begun("one", json!({})).await;
    let issued = registry.order(Ask::post(format!("/workspaces/{}/tokens", one.id))).await.json();
    let api_client = AgentClient { token: issued["auth_token"].as_str().unwrap().to_owned(), ..one.clone() };
    api_client.heartbeat_ok(json!({ "uptime_seconds": 7 })).await;
    api_client.register(json!({})).await.is(200, REGISTERED);
    assert_eq!(one.status().await, "provisioning");
    assert_eq!(one.show().await["uptime_seconds"], json!(7), "the fields are stored");
    one.heartbeat_ok(full()).await;
    api_client.heartbeat_ok(json!({ "runtime_state": "wedged", "error_rate": 1 })).await;
    assert_eq!(one.status().await, "online");
    one.heartbeat_ok(json!({ "error_rate": 1 })).await;
    api_client.heartbeat_ok(full()).await;
    assert_eq!(one.status().await, "degraded");
}

#[tokio::test(flavor = "multi_thread")]
async fn register_stores_the_card_and_brings_the_workspace_online() {
    let registry = Registry::start().await;
    let one = registry.begun("one", json!({})).await;
    let card = json!({ "name": "one", "skills": [{ "id": "dig" }], "url": "http://x" });
    one.register(json!({ "agent_card": card })).await.is(200, REGISTERED);
    let view = one.show().await;
    assert_eq!((&view["status"], &view["agent_card"]), (&json!("online"), &card), "{view}");
    let event = registry.event(&one.id, "WORKSPACE_ONLINE").await;
    assert_eq!(event["payload"]["agent_card"], card, "{event}");
    assert!(event["payload"].get("url").is_some(), "{event}");

    let events = registry.events_of(&one.id).await.len();
    let again = json!({ "name": "again" });
    one.register(json!({ "agent_card": again })).await.is(200, REGISTERED);
    assert_eq!(one.show().await["agent_card"], again, "a second registration replaces the card");
    assert_eq!(registry.events_of(&one.id).await.len(), events, "a second registration emitted an event");
}

#[tokio::test(flavor = "multi_thread")]
async fn register_never_creates_a_workspace() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    let impostor = AgentClient { id: "6f1c0c5e-0d0f-4c58-9b0e-0a4c1b7e2d11".into(), ..one.clone() };
    impostor.register(json!({})).await.refuses(401, "invalid workspace auth token");
    let listed = registry.order(Ask::get("/workspaces")).await.well();
    assert_eq!(listed.as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn register_requires_id_url_and_card() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    let complete = json!({ "id": one.id, "url": "http://x", "agent_card": {} });
    for missing in ["id", "url", "agent_card"] {
        let mut body = complete.clone();
        body.as_object_mut().unwrap().remove(missing);
        let answer = one.ask(Ask::post("/registry/register").json(body)).await;
        answer.refuses(400, "invalid request body");
    }
    one.register(json!({ "agent_card": null })).await.refuses(400, "invalid request body");
    one.ask(Ask::post("/registry/register").body("nonsense")).await.refuses(400, "invalid request body");
}

#[tokio::test(flavor = "multi_thread")]
async fn url_registered_by_a_container_is_ignored() {
    let registry = Registry::start().await;
    let one = registry.begun("one", json!({})).await;
    for url in ["http://169.254.169.254/latest", "file:///etc/passwd", "nonsense", ""] {
        one.register(json!({ "url": url })).await.is(200, REGISTERED);
        let port = one.port().await;
        assert_eq!(one.show().await["url"], format!("http://127.0.0.1:{port}"), "after {url}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn url_registered_by_an_external_agent_is_checked() {
    let registry = Registry::start().await;
    let one = registry.external("one", json!({})).await;
    for url in [
        "http://169.254.169.254/latest/meta-data",
        "http://[fe80::1]/",
        "http://0.0.0.0:80/",
        "http://224.0.0.1/",
        "http://192.0.2.1/",
        "http://100.64.0.1/",
        "http://10.0.0.1:8000/",
        "http://[::ffff:169.254.169.254]/",
        "http://2852039166/",
        "file:///etc/passwd",
        "gopher://127.0.0.1/",
        "http://user:secret@127.0.0.1/",
        "nonsense",
    ] {
        let answer = one.register(json!({ "url": url })).await;
        assert_eq!(answer.status, 400, "{url}: {answer:?}");
        assert_eq!(crate::support::wire::keys_of(&answer.json()), ["error"], "{answer:?}");
    }
    assert_eq!(one.status().await, "awaiting_agent", "a refused registration changed the status");
    assert_eq!(one.show().await["agent_card"], json!(null));
    one.register(json!({ "url": "http://127.0.0.1:9/agent" })).await.is(200, REGISTERED);
    let view = one.show().await;
    assert_eq!((&view["status"], &view["url"]), (&json!("online"), &json!("http://127.0.0.1:9/agent")));
    let event = registry.event(&one.id, "WORKSPACE_ONLINE").await;
    assert_eq!(event["payload"]["url"], "http://127.0.0.1:9/agent", "{event}");
    one.register(json!({ "url": "" })).await.is(200, REGISTERED);
    assert_eq!(one.show().await["url"], json!(null), "an empty url is stored as no url");
}

#[tokio::test(flavor = "multi_thread")]
async fn loopback_url_is_refused_when_external_loopback_is_off() {
    let mut options = Options::default();
    options.access.external.loopback = false;
    let registry = Registry::wanting(options).await;
    let one = registry.external("one", json!({})).await;
    for url in ["http://127.0.0.1:9/", "http://[::1]:9/", "http://localhost:9/"] {
        assert_eq!(one.register(json!({ "url": url })).await.status, 400, "{url}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn card_update_is_stored_and_emits_an_event() {
    let registry = Registry::start().await;
    let one = registry.begun("one", json!({})).await;
    let card = json!({ "name": "new" });
    let update = |card: Value| {
        Ask::post("/registry/update-card").json(json!({ "workspace_id": one.id, "agent_card": card }))
    };
    one.ask(update(card.clone())).await.is(200, r#"{"status":"updated"}"#);
    assert_eq!(one.show().await["agent_card"], card);
    assert_eq!(one.status().await, "provisioning", "a card update does not count as a heartbeat");
    let event = registry.event(&one.id, "AGENT_CARD_UPDATED").await;
    assert_eq!(event["payload"], json!({ "agent_card": card }), "{event}");
    one.ask(update(json!("text"))).await.refuses(400, "invalid request body");
    let without = Ask::post("/registry/update-card").json(json!({ "workspace_id": one.id }));
    one.ask(without).await.refuses(400, "invalid request body");
}
