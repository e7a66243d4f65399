//! Messages between agents (§6), with a test for each row of the protocol's table.

mod accepted_starts;
mod forwarding;
mod holding;
mod refusals;
mod responses;
mod unreachable;
mod waking;

use serde_json::{Value, json};

use super::agent::{Agent, Reply};
use crate::support::registry::{AgentClient, Registry};

const REPLY: &str = r#"{"jsonrpc":"2.0","id":"1","result":{"parts":[{"text":"hello"}]}}"#;

fn ok_reply() -> Reply {
    Reply::This(200, "application/json", REPLY.into())
}

fn hello() -> Value {
    json!({
        "jsonrpc": "2.0", "id": "1", "method": "message/send",
        "params": { "message": { "messageId": "m", "role": "user", "parts": [{ "kind": "text", "text": "hi" }] } },
    })
}

/// A message in the short form that the protocol allows, without `jsonrpc` and `id`. If it is refused, the response is
/// the plain error object and not a JSON-RPC error.
fn bare() -> Value {
    let Value::Object(mut message) = hello() else { unreachable!("it is an object") };
    message.retain(|key, _| key != "jsonrpc" && key != "id");
    Value::Object(message)
}

/// Returns a workspace that sends, an external workspace that receives, and the receiving workspace's agent.
async fn pair(registry: &Registry, reply: Reply) -> (AgentClient<'_>, AgentClient<'_>, Agent) {
    let agent = Agent::replying(reply).await;
    let to = registry.external_at("to", &agent.url()).await;
    (registry.online("from").await, to, agent)
}
