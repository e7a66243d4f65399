//! Carries out delegations: sends each one as a message from its delegator and stores the result.
//!
//! One loop carries out all delegations and ends with the daemon. Delegations in progress at that time remain
//! `dispatched` in the store, and the next daemon ends them as failed: it is unknown whether the agent did the task.
//!
//! A task is sent a second time, as existing clients expect, if the target's container is being restarted, or if the
//! proxy reports 502. The status 502 means that the agent could not be reached, or that its response was incomplete or
//! not usable. Both messages carry the delegation's id as their `messageId`. If the second attempt also fails, the
//! result states that the task was sent twice.
//!
//! Each delegator has a share of the delegations in progress, and delegators take turns: an agent whose peers take half
//! an hour to respond delays only its own tasks.

mod answer;
mod queue;

use std::{sync::PoisonError, time::Duration};

use axum::{
    body::Bytes,
    http::{HeaderMap, HeaderValue, StatusCode},
};
use futures_util::{StreamExt, stream::FuturesUnordered};
use serde_json::json;

pub(super) use self::queue::Delegations;
use self::{
    answer::{Ended, read},
    queue::Turns,
};
use super::{Api, error::HttpResult, journal::cut, proxy::handler};
use crate::{
    domain::{
        delegation::{ANSWER_LIMIT, DelegationStatus, PREVIEW_BYTES, RETRY_AFTER},
        ids::DelegationId,
    },
    runtime::clock::within,
    store::{Attempt, Dispatched, Waiting},
};

/// Most delegations in progress; the others wait for their turn.
const AT_ONCE: usize = 256;

/// Delay before a failed store operation is retried.
const ASK_AGAIN: Duration = Duration::from_secs(5);

impl Api {
    /// Queues a pending delegation. The delegation stays pending if the loop is not running.
    pub(super) fn carry_out(&self, waiting: Waiting) {
        let _nothing_carries_out = self.0.delegations.wanted.send(waiting);
    }

    /// Carries out delegations: first those that the previous daemon left pending, then new ones. Runs until it is
    /// dropped; only the first call has an effect.
    pub async fn carry_out_delegations(self) {
        let queue = self.0.delegations.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut queue) = queue else { return };
        let left_over = loop {
            match self.0.store.take_up_delegations(self.0.clock.now()).await {
                Ok(left_over) => break left_over,
                Err(error) => tracing::warn!(%error, "could not load the pending delegations; retrying"),
            }
            self.0.clock.sleep(ASK_AGAIN).await;
        };
        let mut turns = Turns::default();
        for one in left_over {
            turns.add(one);
        }
        let (api, mut running) = (&self, FuturesUnordered::new());
        loop {
            while running.len() < AT_ONCE
                && let Some(next) = turns.begin()
            {
                running.push(async move {
                    carry_out(api, next).await;
                    next.workspace
                });
            }
            tokio::select! {
                next = queue.recv() => {
                    let Some(next) = next else { return };
                    turns.add(next);
                }
                Some(ended) = running.next(), if !running.is_empty() => turns.end(ended),
            }
        }
    }
}

async fn carry_out(api: &Api, waiting: Waiting) {
    // The delegator got 202, so a failed write is retried until it succeeds.
    let dispatched = loop {
        match api.0.store.dispatch_delegation(waiting, Attempt::First, api.0.clock.now()).await {
            Ok(Some(dispatched)) => break dispatched,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(delegation = %waiting.id, %error, "could not dispatch a delegation; retrying");
            }
        }
        api.0.clock.sleep(ASK_AGAIN).await;
    };
    let ended = within(&*api.0.clock, ANSWER_LIMIT, attempts(api, waiting, &dispatched)).await;
    let ended = ended.unwrap_or_else(|| Ended::Failed("the agent did not respond within 30 minutes".into()));
    let (status, error, preview) = match ended {
        Ended::Answered(text) => (DelegationStatus::Completed, None, Some(cut(text, PREVIEW_BYTES))),
        Ended::Queued => (DelegationStatus::Queued, None, None),
        Ended::Failed(why) => (DelegationStatus::Failed, Some(cut(why, 1024)), None),
    };
    // A failed write is retried until it succeeds: the task was sent, and its result must not be lost.
    loop {
        let (Waiting { id, workspace: of }, at) = (waiting, api.0.clock.now());
        match api.0.store.move_delegation(of, id, status, (error.clone(), preview.clone()), at).await {
            Ok(_) => return,
            Err(error) => {
                tracing::warn!(delegation = %id, %error, "could not store the result of a delegation; retrying");
            }
        }
        api.0.clock.sleep(ASK_AGAIN).await;
    }
}

async fn attempts(api: &Api, waiting: Waiting, dispatched: &Dispatched) -> Ended {
    let first = attempt(api, waiting, dispatched).await;
    let error = match first {
        Ok(ended) => return ended,
        Err(error) => error,
    };
    let again = error.status() == StatusCode::BAD_GATEWAY || error.has_field("restarting");
    if !again {
        return Ended::Failed(error.message().to_owned());
    }
    api.0.clock.sleep(RETRY_AFTER).await;
    match api.0.store.dispatch_delegation(waiting, Attempt::Second, api.0.clock.now()).await {
        Ok(Some(_)) => {}
        Ok(None) => return Ended::Failed("the delegation ended before its second attempt".into()),
        Err(store) => return Ended::Failed(format!("{}; not retried: {store}", error.message())),
    }
    match attempt(api, waiting, dispatched).await {
        Ok(ended) => ended,
        Err(error) => Ended::Failed(format!("{} (sent twice)", error.message())),
    }
}

/// The message for a task. The ids of the request and of the message are the delegation's id, so that an agent can
/// detect the second attempt as a duplicate.
fn message(id: DelegationId, task: &str) -> Bytes {
    let metadata = json!({ "delegation_id": id });
    let message = json!({
        "kind": "message", "role": "user", "messageId": id, "metadata": metadata,
        "parts": [{ "kind": "text", "text": task }],
    });
    let params = json!({ "message": message, "metadata": metadata });
    json!({ "jsonrpc": "2.0", "id": id, "method": "message/send", "params": params }).to_string().into()
}

async fn attempt(api: &Api, waiting: Waiting, dispatched: &Dispatched) -> HttpResult<Ended> {
    let (from, to) = (waiting.workspace, dispatched.target);
    if api.0.store.member(to).is_none() {
        return Ok(Ended::Failed("workspace not found".into()));
    }
    if !api.0.store.may_communicate(from, to, api.access().root_siblings) {
        let why = "access denied: workspaces cannot communicate per hierarchy rules";
        return Ok(Ended::Failed(why.into()));
    }
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    let message = message(waiting.id, &dispatched.task);
    let queued = handler::polls(api, to);
    let answer = handler::pass_on(api, Some(from), to, headers, message).await?;
    if queued {
        return Ok(Ended::Queued);
    }
    read(answer).await
}
