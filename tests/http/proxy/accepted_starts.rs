//! A start order counts from its acceptance: later messages and commands wait for it.

use ostler::ops::{Affected, OpResult};
use std::time::Duration;
use tokio::task::JoinHandle;

use serde_json::json;

use super::{REPLY, bare, ok_reply};
use crate::{
    http::agent::Agent,
    support::{
        fake_engine::Fault,
        registry::{AgentClient, Registry, until},
        wire::Ask,
    },
};

/// How long a test waits to detect a message that is forwarded although it must be held.
const CHANCE: Duration = Duration::from_millis(300);

/// Waits until the workspace is provisioning and sends the heartbeat of its new agent.
async fn come_online<'a>(to: &AgentClient<'a>) -> AgentClient<'a> {
    until("the workspace is provisioning", async || (to.status().await == "provisioning").then_some(()))
        .await;
    let restarted = AgentClient { token: to.registry.token_in_volume(&to.id).await, ..to.clone() };
    restarted.heartbeat(json!({})).await.well();
    restarted
}

/// Accepts a start that the engine carries out slowly: a message that is sent now arrives before the container is up.
#[expect(clippy::disallowed_methods, reason = "the test awaits this task")]
async fn accept_slow_start(registry: &Registry, to: &AgentClient<'_>) -> JoinHandle<OpResult<Vec<Affected>>> {
    registry.world.inject(|call| match call.method {
        "inspect_container" => Fault::Slow(CHANCE),
        _ => Fault::None,
    });
    let (ops, id) = (registry.ops.clone(), to.id.parse().unwrap());
    let start = tokio::spawn(async move { ops.resume(id, false).await });
    until("the start is accepted", async || registry.ops.accepted_starts().has(id).then_some(())).await;
    start
}

#[tokio::test(flavor = "multi_thread")]
async fn message_waits_for_an_accepted_start_but_not_after_a_stop() {
    let registry = Registry::start().await;
    let (from, to) = (registry.online("from").await, registry.online("to").await);
    to.order("stop").await.well();
    let accepted = accept_slow_start(&registry, &to).await;
    let come_online = async {
        let agent = Agent::at(to.port().await, ok_reply()).await;
        let (started, _) = tokio::join!(accepted, come_online(&to));
        started.expect("the start does not panic").expect("the start succeeds");
        registry.world.heal();
        agent
    };
    let (answer, _agent) = tokio::join!(from.ask(from.message(&to).json(bare())), come_online);
    answer.is(200, REPLY);
    // After a stop that was requested later, messages are refused again.
    to.order("stop").await.well();
    assert_eq!(from.send_message(&to, bare()).await.status, 409, "the stop came after the start");
}

#[tokio::test(flavor = "multi_thread")]
async fn message_to_a_child_waits_for_the_accepted_start_of_its_parent() {
    let registry = Registry::start().await;
    let lead = registry.online("lead").await;
    let child = registry.online_below("child", &lead).await;
    let alone = registry.online_below("alone", &lead).await;
    alone.order("stop").await.well();
    lead.order("stop").await.well();
    let accepted = accept_slow_start(&registry, &lead).await;
    let message =
        |to: &AgentClient<'_>| registry.order(Ask::post(format!("/workspaces/{}/a2a", to.id)).json(bare()));
    message(&alone)
        .await
        .refuses(409, "workspace or one of its ancestors is paused: resume it with `ostler start`");
    let come_online = async {
        let agent = Agent::at(child.port().await, ok_reply()).await;
        let (started, ..) = tokio::join!(accepted, come_online(&lead), come_online(&child));
        started.expect("the start does not panic").expect("the start succeeds");
        registry.world.heal();
        agent
    };
    let (answer, _agent) = tokio::join!(message(&child), come_online);
    answer.is(200, REPLY);
}

#[tokio::test(flavor = "multi_thread")]
async fn message_after_an_accepted_start_waits_for_the_start() {
    let registry = Registry::start().await;
    let (from, to) = (registry.online("from").await, registry.online("to").await);
    let _agent = Agent::at(to.port().await, ok_reply()).await;
    for _ in 0..5 {
        to.order("stop").await.well();
        registry.world.inject(|call| match call.method {
            "inspect_container" => Fault::Slow(CHANCE),
            _ => Fault::None,
        });
        to.order("start?wait=false").await.well();
        let (answer, _) = tokio::join!(from.ask(from.message(&to).json(bare())), come_online(&to));
        answer.is(200, REPLY);
        registry.world.heal();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_without_wait_run_in_the_order_of_their_requests() {
    let registry = Registry::start().await;
    let lead = registry.online("lead").await;
    let child = registry.online_below("child", &lead).await;
    for number in 0..5 {
        registry.online_below(&format!("another-{number}"), &lead).await;
    }
    for _ in 0..5 {
        lead.order("stop?wait=false").await.well();
        let answer = lead.order("start?wait=false").await.well();
        assert_eq!(answer["accepted"], true, "{answer}");
        come_online(&lead).await;
        come_online(&child).await;
        lead.order("hibernate?wait=false&force=true").await.well();
        lead.order("wake").await.well();
        come_online(&lead).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn command_gets_the_same_refusal_with_and_without_wait() {
    let registry = Registry::start().await;
    let lead = registry.online("lead").await;
    let child = registry.online_below("child", &lead).await;
    lead.order("stop").await.well();
    for (of, verb) in
        [(&lead, "wake"), (&lead, "hibernate"), (&child, "start"), (&child, "recreate"), (&child, "restart")]
    {
        let waited = of.order(verb).await;
        let unawaited = of.order(&format!("{verb}?wait=false")).await;
        assert_eq!((waited.status, waited.json()), (unawaited.status, unawaited.json()), "{verb}");
        assert_eq!(waited.status, 409, "{verb}: {waited:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_after_an_accepted_start_leaves_workspace_paused() {
    let registry = Registry::start().await;
    let (from, to) = (registry.online("from").await, registry.online("to").await);
    to.order("stop").await.well();
    let accepted = accept_slow_start(&registry, &to).await;
    to.order("stop").await.well();
    from.send_message(&to, bare())
        .await
        .refuses(409, "workspace or one of its ancestors is paused: resume it with `ostler start`");
    accepted.await.expect("the start does not panic").expect("the start ends without an error");
    assert_eq!(to.status().await, "paused", "the stop came after the start");
}

#[tokio::test(flavor = "multi_thread")]
async fn message_to_a_started_parent_does_not_wait_for_its_children() {
    let registry = Registry::start().await;
    let lead = registry.online("lead").await;
    let child = registry.online_below("child", &lead).await;
    lead.order("stop").await.well();
    let slow = registry.row(&child.id).await.container.expect("it has a container").to_string();
    registry.world.inject(move |call| {
        if call.method == "inspect_container" && call.object == slow { Fault::Lost } else { Fault::None }
    });
    let _agent = Agent::at(lead.port().await, ok_reply()).await;
    lead.order("start?wait=false").await.well();
    until("the workspace is provisioning", async || (lead.status().await == "provisioning").then_some(()))
        .await;
    registry.token_in_volume(&lead.id).await;
    let command = Ask::post(format!("/workspaces/{}/exec", lead.id)).json(json!({ "command": ["true"] }));
    registry.order(command).await.refuses_with(503, "the fake engine runs no commands");
    come_online(&lead).await;
    let message = Ask::post(format!("/workspaces/{}/a2a", lead.id)).json(bare());
    registry.order(message).await.is(200, REPLY);
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_waits_for_an_accepted_start() {
    let registry = Registry::start().await;
    let to = registry.online("to").await;
    to.order("stop").await.well();
    let command = || {
        registry.order(Ask::post(format!("/workspaces/{}/exec", to.id)).json(json!({ "command": ["true"] })))
    };
    command().await.refuses_with(409, "its container is not running");
    let accepted = accept_slow_start(&registry, &to).await;
    let (answer, started) = tokio::join!(command(), accepted);
    started.expect("the start does not panic").expect("the start succeeds");
    // The fake engine gives this response for any command in a running container.
    answer.refuses_with(503, "the fake engine runs no commands");
}
