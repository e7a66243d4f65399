//! Messages that wake a hibernated target.

use ostler::engine::ErrorKind;
use serde_json::json;

use super::{REPLY, bare, ok_reply};
use crate::support::fake_engine::Fault;
use crate::{
    http::agent::Agent,
    support::{
        registry::{AgentClient, Options, Registry, until},
        wire::{Answer, keys_of},
    },
};

#[tokio::test(flavor = "multi_thread")]
async fn message_wakes_a_hibernated_target_and_waits_for_it() {
    let registry = Registry::start().await;
    let (from, to) = (registry.online("from").await, registry.online("to").await);
    to.order("hibernate").await.well();
    let wakes = async {
        until("the target is being woken", async || (to.status().await == "provisioning").then_some(()))
            .await;
        let token = registry.token_in_volume(&to.id).await;
        let agent = Agent::at(to.port().await, ok_reply()).await;
        let woken = AgentClient { token, ..to.clone() };
        woken.heartbeat(json!({})).await.well();
        agent
    };
    let (answer, agent) = tokio::join!(from.send_message(&to, bare()), wakes);
    answer.is(200, REPLY);
    assert_eq!(agent.requests().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn message_answers_503_with_retry_after_when_wake_takes_too_long() {
    let registry = Registry::start().await;
    let (from, to) = (registry.online("from").await, registry.online("to").await);
    to.order("hibernate").await.well();
    let with_short_timeout = from.message(&to).header("X-Timeout", "1").json(bare());
    let answer = from.ask(with_short_timeout).await;
    let body = answer.has(503, &["error", "waking", "retry_after"]);
    assert_eq!(body["waking"], json!(true));
    assert!(body["error"].is_string());
    assert_eq!(answer.header("retry-after").map(str::to_owned), Some(body["retry_after"].to_string()));
    to.until_status("provisioning").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wake_ups_are_rate_limited_per_sender() {
    let mut options = Options::default();
    options.access.wakes_per_hour = 1;
    let registry = Registry::wanting(options).await;
    let (from, other, to) =
        (registry.online("from").await, registry.online("other").await, registry.online("to").await);
    let with_short_timeout = async |by: &AgentClient<'_>| -> Answer {
        if to.status().await != "hibernated" {
            let token = registry.token_in_volume(&to.id).await;
            AgentClient { token, ..to.clone() }.heartbeat(json!({})).await.well();
            to.order("hibernate").await.well();
        }
        by.ask(by.message(&to).header("X-Timeout", "1").json(bare())).await
    };
    assert_eq!(with_short_timeout(&from).await.status, 503);
    let answer = with_short_timeout(&from).await;
    let body = answer.has(429, &["error", "retry_after"]);
    assert_eq!(body["error"], "rate limit exceeded");
    assert_eq!(answer.header("retry-after").map(str::to_owned), Some(body["retry_after"].to_string()));
    assert_eq!(to.status().await, "hibernated", "the refused message woke the target");
    assert_eq!(with_short_timeout(&other).await.status, 503, "the wake-up limit is per sender");
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_messages_to_a_hibernated_target_share_a_wake_up() {
    let mut options = Options::default();
    options.access.wakes_per_hour = 2;
    let registry = Registry::wanting(options).await;
    let (from, to) = (registry.online("from").await, registry.online("to").await);
    to.order("hibernate").await.well();
    let all = (0..8).map(|_| from.ask(from.message(&to).header("X-Timeout", "60").json(bare())));
    let wakes = async {
        to.until_status("provisioning").await;
        let token = registry.token_in_volume(&to.id).await;
        let agent = Agent::at(to.port().await, ok_reply()).await;
        AgentClient { token, ..to.clone() }.heartbeat(json!({})).await.well();
        agent
    };
    let (answers, agent) = tokio::join!(futures_util::future::join_all(all), wakes);
    for answer in answers {
        answer.is(200, REPLY);
    }
    assert_eq!(agent.requests().len(), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_wake_up_is_reported_and_can_be_retried() {
    let registry = Registry::start().await;
    let (from, to) = (registry.online("from").await, registry.online("to").await);
    to.order("hibernate").await.well();
    registry.world.inject(|call| match call.method {
        "start_container" => Fault::Before(ErrorKind::Unreachable),
        _ => Fault::None,
    });
    let answer = from.ask(from.message(&to).header("X-Timeout", "60").json(bare())).await;
    assert_eq!((answer.status, keys_of(&answer.json())), (503, vec!["error".to_owned()]), "{answer:?}");
    assert!(answer.header("retry-after").is_some());
    registry.world.heal();
    // The next run of the pass resumes the interrupted start; the test does not wait for its schedule.
    registry.sweep(&["settle"]).await;
    let wakes = async {
        let token = registry.token_in_volume(&to.id).await;
        let agent = Agent::at(to.port().await, ok_reply()).await;
        AgentClient { token, ..to.clone() }.heartbeat(json!({})).await.well();
        agent
    };
    let (answer, _agent) = tokio::join!(from.ask(from.message(&to).json(bare())), wakes);
    answer.is(200, REPLY);
}
