//! Messages that are held until their target can receive them.

use serde_json::json;

use super::{REPLY, bare, ok_reply, pair};
use crate::{
    http::agent::{Agent, Reply},
    support::{
        registry::{Registry, until},
        wire::{Ask, Wire, keys_of},
    },
};

#[tokio::test(flavor = "multi_thread")]
async fn message_waits_for_a_target_that_is_starting() {
    let registry = Registry::start().await;
    let from = registry.online("from").await;
    let to = registry.begun("to", json!({})).await;
    let agent = Agent::at(to.port().await, ok_reply()).await;
    let becomes_online = async {
        until("the message waits", async || registry.ops.traffic().sent_at(registry.row(&from.id).await.id))
            .await;
        to.heartbeat(json!({})).await.well();
    };
    let held = from.message(&to).header("X-Timeout", "60").json(bare());
    let (answer, ()) = tokio::join!(from.ask(held), becomes_online);
    answer.is(200, REPLY);
    assert_eq!(agent.requests().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn message_does_not_wake_a_paused_workspace_or_its_children() {
    let registry = Registry::start().await;
    let from = registry.online("from").await;
    let to = registry.online("to").await;
    let child = registry.online_below("child", &to).await;
    to.order("pause").await.well();
    let answer = from.send_message(&to, bare()).await;
    assert_eq!((answer.status, keys_of(&answer.json())), (409, vec!["error".to_owned()]), "{answer:?}");
    let answer = registry.order(Ask::post(format!("/workspaces/{}/a2a", child.id)).json(bare())).await;
    assert_eq!(answer.status, 409, "{answer:?}");
    assert_eq!((to.status().await, child.status().await), ("paused".into(), "paused".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn message_does_not_start_a_failed_or_awaiting_workspace() {
    let registry = Registry::start().await;
    let from = registry.online("from").await;
    let away = registry.external("away", json!({})).await;
    let answer = from.send_message(&away, bare()).await;
    let body = answer.has(503, &["error", "status"]);
    assert_eq!(body["status"], "awaiting_agent");
    assert!(answer.header("retry-after").is_some());

    let failed = registry.begun("failed", json!({})).await;
    let row = registry.row(&failed.id).await;
    registry.ops.time_out_provisioning(row.id, row.incarnation, row.status_since, 1).await.unwrap();
    let body = from.send_message(&failed, bare()).await.has(503, &["error", "status"]);
    assert_eq!(body["status"], "failed");
    assert!(body["error"].as_str().unwrap().contains("provision_timeout"), "the reason: {body}");
    assert_eq!(failed.status().await, "failed(provision_timeout)");
}

#[tokio::test(flavor = "multi_thread")]
async fn undelivered_message_is_refused_when_its_target_is_paused() {
    let registry = Registry::start().await;
    let (from, to) = (registry.online("from").await, registry.online("to").await);
    let id = registry.row(&to.id).await.id;
    let pauses = async {
        until("the message is in flight", async || (registry.ops.traffic().open(id) > 0).then_some(())).await;
        to.order("pause").await.well();
    };
    let (answer, ()) = tokio::join!(from.send_message(&to, bare()), pauses);
    assert_eq!(answer.status, 409, "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn in_flight_message_prevents_hibernation_of_its_target() {
    let registry = Registry::start().await;
    let (from, to) = (registry.online("from").await, registry.online("to").await);
    let agent = Agent::at(to.port().await, Reply::Nothing).await;
    let mut wire = Wire::open(registry.address).await;
    wire.write(&from.message(&to).token(&from.token).json(bare()).bytes()).await;
    until("the agent has the request", async || (!agent.requests().is_empty()).then_some(())).await;
    let busy = to.order("hibernate").await.has(409, &["error", "open_requests"]);
    assert_eq!(busy["open_requests"], 1, "{busy}");
    assert!(busy["error"].as_str().unwrap().starts_with("workspace is in use"), "{busy}");
    drop(wire);
    until("no request to the target is open", async || {
        (to.order("hibernate").await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn message_times_out_after_the_callers_timeout() {
    let registry = Registry::start().await;
    let (from, to, _agent) = pair(&registry, Reply::Nothing).await;
    let answer = from.ask(from.message(&to).header("X-Timeout", "1").json(bare())).await;
    assert_eq!((answer.status, keys_of(&answer.json())), (504, vec!["error".to_owned()]), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_message_is_refused_when_its_target_stops_or_fails() {
    let registry = Registry::start().await;
    let from = registry.online("from").await;
    for (name, becomes) in [("paused", 409), ("removed", 410), ("failed", 503)] {
        let to = registry.begun(name, json!({})).await;
        let before = registry.ops.traffic().sent_at(registry.row(&from.id).await.id);
        let changes = async {
            until("the message waits", async || {
                let sent = registry.ops.traffic().sent_at(registry.row(&from.id).await.id);
                (sent > before).then_some(())
            })
            .await;
            let row = registry.row(&to.id).await;
            if name == "paused" {
                to.order("pause").await.well();
            } else if name == "removed" {
                registry.order(Ask::new("DELETE", format!("/workspaces/{}", to.id))).await.well();
            } else {
                let ops = &registry.ops;
                ops.time_out_provisioning(row.id, row.incarnation, row.status_since, 1).await.unwrap();
            }
        };
        let held = from.message(&to).header("X-Timeout", "60").json(bare());
        let (answer, ()) = tokio::join!(from.ask(held), changes);
        assert_eq!(answer.status, becomes, "{name}: {answer:?}");
        assert!(
            !answer.text().contains("waking"),
            "{name}: the message waited until its timeout: {answer:?}"
        );
    }
}
