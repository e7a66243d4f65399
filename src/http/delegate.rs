//! Carrying out delegations: each is sent once as a message of its delegator, and its end is written down.
//!
//! One loop carries out all of them, and ends with the daemon. What it was at work on then is `dispatched` in the
//! store, and the next daemon ends it as failed: whether the agent did the task is not known. A task whose agent could
//! not be reached is sent a second time, as clients of the field expect; both messages carry the delegation's id as
//! their `messageId`, and the result says that it was sent twice.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use axum::{
    body::Bytes,
    http::{HeaderMap, HeaderValue, StatusCode},
    response::Response,
};
use futures_util::{StreamExt, stream::FuturesUnordered};
use http_body_util::{BodyExt, Limited};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{
    Api,
    error::{HttpError, HttpResult},
    journal::cut,
    proxy,
};
use crate::{
    clock::within,
    domain::{
        delegation::{ANSWER_LIMIT, DelegationStatus, PREVIEW_BYTES, RETRY_AFTER},
        ids::DelegationId,
    },
    store::Delegation,
};

/// The most that is read of an answer.
const ANSWER_MAX_BYTES: usize = 4 << 20;

/// How many delegations are carried out at once; the others wait their turn.
const AT_ONCE: usize = 64;

/// How long to wait before the store is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// Delegations that wait to be carried out.
pub(super) struct Delegations {
    wanted: mpsc::UnboundedSender<Delegation>,
    queue: Mutex<Option<mpsc::UnboundedReceiver<Delegation>>>,
}

impl Default for Delegations {
    fn default() -> Self {
        let (wanted, queue) = mpsc::unbounded_channel();
        Self { wanted, queue: Mutex::new(Some(queue)) }
    }
}

impl Api {
    /// Hands a pending delegation over, to be carried out. Where nothing carries out any, it stays pending.
    pub(super) fn carry_out(&self, delegation: Delegation) {
        let _nothing_carries_out = self.0.delegations.wanted.send(delegation);
    }

    /// Carries out delegations: first those that the daemon before left pending, then the new ones. Runs until it is
    /// dropped. Only the first call does anything.
    pub async fn carry_out_delegations(self) {
        let queue = self.0.delegations.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut queue) = queue else { return };
        let left_over = loop {
            match self.0.store.take_up_delegations(self.0.clock.now()).await {
                Ok(left_over) => break left_over,
                Err(error) => tracing::warn!(%error, "interrupted delegations were not taken up yet"),
            }
            self.0.clock.sleep(ASK_AGAIN).await;
        };
        let mut left_over = left_over.into_iter();
        let mut running = FuturesUnordered::new();
        loop {
            while running.len() < AT_ONCE
                && let Some(next) = left_over.next()
            {
                running.push(carry_out(&self, next));
            }
            tokio::select! {
                next = queue.recv(), if running.len() < AT_ONCE => {
                    let Some(next) = next else { return };
                    running.push(carry_out(&self, next));
                }
                Some(()) = running.next(), if !running.is_empty() => {}
            }
        }
    }
}

/// How an attempt ended.
enum Ended {
    /// With the agent's answer.
    Answered(String),
    /// The task is stored for an agent that polls.
    Queued,
    /// Without an answer.
    Failed(String),
}

async fn carry_out(api: &Api, delegation: Delegation) {
    match api.0.store.dispatch_delegation(delegation.id).await {
        Ok(true) => {}
        Ok(false) => return,
        Err(error) => {
            tracing::warn!(delegation = %delegation.id, %error, "a delegation was not sent");
            return;
        }
    }
    let ended = within(&*api.0.clock, ANSWER_LIMIT, attempts(api, &delegation)).await;
    let ended = ended.unwrap_or_else(|| Ended::Failed("the agent did not answer within 30 minutes".into()));
    let (status, error, preview) = match ended {
        Ended::Answered(text) => (DelegationStatus::Completed, None, Some(cut(text, PREVIEW_BYTES))),
        Ended::Queued => (DelegationStatus::Queued, None, None),
        Ended::Failed(why) => (DelegationStatus::Failed, Some(cut(why, 1024)), None),
    };
    // The agent has answered: a store that is busy right now is asked until it has taken that down.
    loop {
        let (id, of, at) = (delegation.id, delegation.workspace, api.0.clock.now());
        match api.0.store.move_delegation(of, id, status, (error.clone(), preview.clone()), at).await {
            Ok(_) => return,
            Err(error) => {
                tracing::warn!(delegation = %id, %error, "the end of a delegation was not written yet");
            }
        }
        api.0.clock.sleep(ASK_AGAIN).await;
    }
}

async fn attempts(api: &Api, delegation: &Delegation) -> Ended {
    let first = attempt(api, delegation).await;
    let error = match first {
        Ok(ended) => return ended,
        Err(error) => error,
    };
    let again = error.status() == StatusCode::BAD_GATEWAY || error.says("restarting");
    if !again {
        return Ended::Failed(error.message().to_owned());
    }
    api.0.clock.sleep(RETRY_AFTER).await;
    match api.0.store.dispatch_delegation(delegation.id).await {
        Ok(true) => {}
        Ok(false) => return Ended::Failed("the delegation was ended meanwhile".into()),
        Err(store) => return Ended::Failed(format!("{}; not sent again: {store}", error.message())),
    }
    match attempt(api, delegation).await {
        Ok(ended) => ended,
        Err(error) => Ended::Failed(format!("{} (sent twice)", error.message())),
    }
}

/// The task as a message. Its id is the delegation's, so that an agent can tell a second one.
fn message(id: DelegationId, task: &str) -> Bytes {
    let metadata = json!({ "delegation_id": id });
    let message = json!({
        "kind": "message", "role": "user", "messageId": id, "metadata": metadata,
        "parts": [{ "kind": "text", "text": task }],
    });
    let params = json!({ "message": message, "metadata": metadata });
    json!({ "jsonrpc": "2.0", "id": id, "method": "message/send", "params": params }).to_string().into()
}

async fn attempt(api: &Api, delegation: &Delegation) -> HttpResult<Ended> {
    let (from, to) = (delegation.workspace, delegation.target);
    if api.0.store.member(to).is_none() {
        return Ok(Ended::Failed("workspace not found".into()));
    }
    if !api.0.store.may_communicate(from, to, api.access().root_siblings) {
        let why = "access denied: workspaces cannot communicate per hierarchy rules";
        return Ok(Ended::Failed(why.into()));
    }
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    let message = message(delegation.id, &delegation.task);
    let queued = proxy::polls(api, to);
    let answer = proxy::pass_on(api, Some(from), to, headers, message).await?;
    if queued {
        return Ok(Ended::Queued);
    }
    read(answer).await
}

async fn read(answer: Response) -> HttpResult<Ended> {
    let status = answer.status();
    let cut_off = || HttpError::new(StatusCode::BAD_GATEWAY, "the agent's answer was cut");
    let body = Limited::new(answer.into_body(), ANSWER_MAX_BYTES).collect().await.map_err(|_| cut_off())?;
    let body = body.to_bytes();
    let value = serde_json::from_slice::<Value>(&body).ok();
    if status.is_success()
        && let Some(value) = value
    {
        return Ok(judged(&value));
    }
    let text = String::from_utf8_lossy(&body);
    Ok(Ended::Failed(format!("the agent answered {status}: {}", cut(text.into_owned(), PREVIEW_BYTES))))
}

/// Whether an answer is one, or a failure in JSON-RPC's or in a task's words.
fn judged(answer: &Value) -> Ended {
    if let Some(error) = answer.get("error").filter(|error| !error.is_null()) {
        let message = error["message"].as_str().map_or_else(|| error.to_string(), ToOwned::to_owned);
        return Ended::Failed(format!("the agent answered with an error: {message}"));
    }
    let result = &answer["result"];
    let text = texts_of(result);
    let state = result["status"]["state"].as_str().unwrap_or_default();
    if ["failed", "rejected", "canceled", "TASK_STATE_FAILED", "TASK_STATE_REJECTED", "TASK_STATE_CANCELED"]
        .contains(&state)
    {
        return Ended::Failed(format!("the agent's task ended as {state}: {text}"));
    }
    Ended::Answered(if text.is_empty() { result.to_string() } else { text })
}

/// The text of a message, or of a task's artifacts and its status.
fn texts_of(result: &Value) -> String {
    let artifacts = result["artifacts"].as_array().into_iter().flatten();
    let carriers = [result, &result["message"], &result["status"]["message"]].into_iter().chain(artifacts);
    let parts = carriers.flat_map(|carrier| carrier["parts"].as_array().into_iter().flatten());
    parts.filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(answer: &Value) -> (bool, String) {
        match judged(answer) {
            Ended::Answered(text) => (true, text),
            Ended::Failed(why) => (false, why),
            Ended::Queued => panic!("an answer is never queued"),
        }
    }

    #[test]
    fn answers_are_read_in_every_shape() {
        for (answer, well, text) in [
            (
                json!({ "result": { "parts": [{ "text": "a" }, { "kind": "data" }, { "text": "b" }] } }),
                true,
                "a\nb",
            ),
            (json!({ "result": { "message": { "parts": [{ "text": "a" }] } } }), true, "a"),
            (
                json!({ "result": { "status": { "state": "completed" }, "artifacts": [
                    { "parts": [{ "text": "a" }] }, { "parts": [{ "text": "b" }] }] } }),
                true,
                "a\nb",
            ),
            (json!({ "result": "plain" }), true, "\"plain\""),
            (
                json!({ "result": { "status": { "state": "failed", "message": { "parts": [{ "text": "why" }] } } } }),
                false,
                "the agent's task ended as failed: why",
            ),
            (
                json!({ "error": { "code": -1, "message": "no" } }),
                false,
                "the agent answered with an error: no",
            ),
        ] {
            assert_eq!(told(&answer), (well, text.to_owned()), "{answer}");
        }
    }
}
