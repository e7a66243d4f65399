//! Operations over HTTP: listed, awaited and cancelled by their numbers.

use std::time::Duration;

use ostler::engine::ErrorKind;
use serde_json::{Value, json};

use crate::support::{
    fake_engine::Fault,
    registry::{AgentClient, Registry, until},
    wire::Ask,
};

async fn operation(registry: &Registry, id: &Value, query: &str) -> Value {
    registry.order(Ask::get(format!("/operations/{id}{query}"))).await.well()
}

async fn open(registry: &Registry) -> Vec<Value> {
    let open = registry.order(Ask::get("/operations?open=true")).await.well();
    open.as_array().expect("it is a list").clone()
}

/// The engine inspects containers slowly.
fn slow_down(registry: &Registry, delay: Duration) {
    registry.world.inject(move |call| match call.method {
        "inspect_container" => Fault::Slow(delay),
        _ => Fault::None,
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn order_without_wait_names_its_operation_and_wait_returns_its_result() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    slow_down(&registry, Duration::from_millis(300));
    let answer = one.order("stop?wait=false").await.well();
    assert_eq!(answer["accepted"], true, "{answer}");
    let id = &answer["operation_id"];
    let runs = operation(&registry, id, "").await;
    assert_eq!((&runs["kind"], &runs["state"]), (&json!("stop"), &json!("running")), "{runs}");
    until("the progress is shown", async || {
        let runs = operation(&registry, id, "").await;
        (runs["progress"] == "stop: stopping its container").then_some(())
    })
    .await;
    let ended = operation(&registry, id, "?wait=true").await;
    assert_eq!(ended["state"], "done", "{ended}");
    assert_eq!(ended["requested_by"], "operator");
    assert_eq!((&ended["workspace_id"], &ended["workspace_name"]), (&json!(one.id), &json!("one")));
    assert!(ended["ended_at"].is_string() && ended["progress"].is_null(), "{ended}");
    let container = registry.row(&one.id).await.container.expect("it is kept");
    let runs = registry.world.state().containers[&container].state.may_run();
    assert!(!runs, "the operation is done, and the container runs");
}

#[tokio::test(flavor = "multi_thread")]
async fn list_is_newest_first_and_can_be_narrowed() {
    let registry = Registry::start().await;
    let (one, other) = (registry.online("one").await, registry.online("other").await);
    one.order("stop").await.well();
    other.order("stop").await.well();
    one.order("start").await.well();
    let kinds = async |query: &str| {
        let list = registry.order(Ask::get(format!("/operations{query}"))).await.well();
        let kind = |one: &Value| {
            format!("{} {}", one["kind"].as_str().unwrap(), one["workspace_name"].as_str().unwrap())
        };
        list.as_array().unwrap().iter().map(kind).collect::<Vec<_>>()
    };
    assert_eq!(kinds("?limit=3").await, ["start one", "stop other", "stop one"]);
    assert_eq!(kinds("?workspace=other&limit=1").await, ["stop other"]);
    assert_eq!(kinds("?open=true").await, [] as [String; 0]);
    registry.order(Ask::get("/operations?workspace=missing")).await.refuses_with(404, "missing");
    registry.order(Ask::get("/operations/x")).await.refuses_with(400, "is not the number of an operation");
    registry.order(Ask::get("/operations/4711")).await.refuses_with(404, "there is no operation 4711");
}

#[tokio::test(flavor = "multi_thread")]
async fn running_start_is_cancelled_before_its_container_is_started() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    one.order("stop").await.well();
    slow_down(&registry, Duration::from_millis(300));
    let id = one.order("start?wait=false").await.well()["operation_id"].clone();
    let cancelled =
        registry.order(Ask::post(format!("/operations/{id}/cancel")).json(json!({}))).await.well();
    assert_eq!(cancelled["state"], "cancelled", "{cancelled}");
    assert_eq!(one.status().await, "paused");
    let container = registry.row(&one.id).await.container.expect("it is kept");
    assert!(!registry.world.state().containers[&container].state.may_run(), "it was started");
    let again = registry.order(Ask::post(format!("/operations/{id}/cancel")).json(json!({}))).await;
    again.refuses_with(409, "has ended already: it is cancelled");
}

#[tokio::test(flavor = "multi_thread")]
async fn operation_that_changed_its_row_cannot_be_cancelled() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    slow_down(&registry, Duration::from_millis(300));
    let id = one.order("stop?wait=false").await.well()["operation_id"].clone();
    let refused = registry.order(Ask::post(format!("/operations/{id}/cancel")).json(json!({}))).await;
    refused.refuses_with(409, "`ostler start` starts the workspace");
    assert_eq!(operation(&registry, &id, "?wait=true").await["state"], "done");
}

async fn is_up(one: &AgentClient<'_>) -> Option<()> {
    (one.status().await == "provisioning").then_some(())
}

#[tokio::test(flavor = "multi_thread")]
async fn order_is_accepted_while_podman_is_away_and_carried_out_later() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    one.order("stop").await.well();
    registry.world.inject(|_| Fault::Before(ErrorKind::Unreachable));
    let answer = one.order("start").await.well();
    assert_eq!((&answer["accepted"], &answer["status"]), (&json!(true), &json!("paused")), "{answer}");
    let why = answer["detail"].as_str().expect("it says what it waits for");
    assert!(why.contains("Podman does not answer now"), "{why}");
    let waits = &open(&registry).await[0];
    assert_eq!((&waits["id"], &waits["state"]), (&answer["operation_id"], &json!("waiting")), "{waits}");
    assert_eq!(one.show().await["operation"], "start: waiting until Podman answers");
    registry.world.heal();
    until("the start is carried out", async || {
        registry.order(Ask::post("/sweeps/run").json(json!({ "passes": ["check_containers"] }))).await.well();
        is_up(&one).await
    })
    .await;
    assert_eq!(operation(&registry, &answer["operation_id"], "?wait=true").await["state"], "done");
}

#[tokio::test(flavor = "multi_thread")]
async fn open_operation_is_continued_by_the_next_daemon() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    one.order("stop").await.well();
    registry.world.inject(|_| Fault::Before(ErrorKind::Unreachable));
    let id = one.order("start").await.well()["operation_id"].clone();
    let workspace = one.id.clone();
    assert_eq!(operation(&registry, &id, "").await["state"], "waiting");
    // The next daemon finds an engine without faults.
    let registry = registry.restart().await;
    registry.world.heal();
    let ended = until("the start is carried out", async || {
        registry.order(Ask::post("/sweeps/run").json(json!({ "passes": ["check_containers"] }))).await.well();
        Some(operation(&registry, &id, "").await).filter(|operation| operation["state"] == "done")
    })
    .await;
    assert_eq!((&ended["state"], &ended["workspace_id"]), (&json!("done"), &json!(workspace)), "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_report_the_begin_and_the_end_of_an_operation() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    let id = one.order("stop").await.well()["operation_id"].clone();
    let accepted = registry.event(&one.id, "OPERATION_ACCEPTED").await;
    assert_eq!(accepted["payload"], json!({ "operation": id, "kind": "stop", "requested_by": "operator" }));
    let ended = registry.event(&one.id, "OPERATION_ENDED").await;
    let detail = "its container is stopped";
    assert_eq!(
        ended["payload"],
        json!({ "operation": id, "kind": "stop", "state": "done", "detail": detail })
    );
}
