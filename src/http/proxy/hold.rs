//! Holds a message until its target can receive it.

use std::time::Duration;

use axum::http::{HeaderMap, StatusCode};
use tokio::sync::{broadcast::error::RecvError, oneshot};

use super::undelivered::{TRY_AGAIN, failed, name_of, paused};
use crate::{
    domain::{ids::WorkspaceId, status::Status, time::Awake},
    http::{
        Api,
        error::{HttpError, HttpResult},
    },
    ops::{InFlightRequest, OpError},
    runtime::clock::{Boxed, within},
    store::{Member, Pause},
};

/// Longest time for which a message is held.
const HOLD: Duration = Duration::from_mins(1);

/// How long the message may be held: `X-Timeout` in seconds, from 1 s to `HOLD`; `HOLD` if the header is missing or not
/// a number.
pub(super) fn patience(headers: &HeaderMap) -> Duration {
    let asked = headers.get("x-timeout").and_then(|value| value.to_str().ok()?.trim().parse::<u64>().ok());
    asked.map_or(HOLD, |seconds| HOLD.min(Duration::from_secs(seconds.max(1))))
}

/// Waits until `until` for the target to accept a message, and wakes it if it is hibernated. The message counts as in
/// flight as long as the returned `InFlightRequest` exists.
pub(super) async fn hold(
    api: &Api,
    from: Option<WorkspaceId>,
    to: WorkspaceId,
    until: Awake,
) -> HttpResult<(Member, InFlightRequest)> {
    if let Some(ready) = can_forward(api, from, to)? {
        return Ok(ready);
    }
    // The subscription begins before the target's state is checked, so that no later change is missed.
    let mut feed = api.0.store.subscribe();
    let mut starts_ended = api.0.ops.accepted_starts().ends();
    let mut waking: Option<oneshot::Receiver<OpError>> = None;
    loop {
        if let Some(ready) = can_forward(api, from, to)? {
            return Ok(ready);
        }
        let status = api.0.store.member(to).map(|member| member.status);
        let sleeps = matches!(status, Some(Status::Hibernated | Status::Hibernating));
        if sleeps && waking.is_none() && !api.0.ops.accepted_starts().has(to) {
            waking = Some(wake(api, from, to)?);
        }
        let left = until.since(api.0.clock.awake());
        let changed = async {
            loop {
                tokio::select! {
                    biased;
                    failed = failure(&mut waking) => return Some(failed),
                    () = starts_ended.next() => return None,
                    event = feed.recv() => match event {
                        Ok(event) if event.workspace_id == Some(to) => return None,
                        Ok(_) => {}
                        Err(RecvError::Lagged(_) | RecvError::Closed) => return None,
                    },
                }
            }
        };
        match within(&*api.0.clock, left, changed).await {
            Some(None) => {}
            Some(Some(error)) => return Err(error.into()),
            None => return Err(not_up(api, to).await),
        }
    }
}

/// The error for a message whose target was not ready in time.
async fn not_up(api: &Api, to: WorkspaceId) -> HttpError {
    if api.0.store.pause(to, |_| false) != Pause::None {
        return paused();
    }
    let later = |why: &str| HttpError::new(StatusCode::SERVICE_UNAVAILABLE, why).retry_after(TRY_AGAIN);
    if api.0.store.member(to).is_some_and(|member| member.status == Status::Offline) {
        let name = name_of(api, to).await;
        let why = format!(
            "{name} is offline: its container exited and was not restarted in time. Run `ostler why {name}` for the \
             reason"
        );
        return later(&why).with("status", "offline").with("retry_after", TRY_AGAIN);
    }
    later("workspace is waking up").with("waking", true).with("retry_after", TRY_AGAIN)
}

/// Resolves when the wake has failed. It never resolves otherwise: the caller detects a successful wake by the target's
/// status.
async fn failure(waking: &mut Option<oneshot::Receiver<OpError>>) -> OpError {
    if let Some(outcome) = waking
        && let Ok(error) = outcome.await
    {
        *waking = None;
        return error;
    }
    // The wake succeeded. Its receiver must not be polled again. If the target hibernates again, another wake is
    // needed.
    *waking = None;
    std::future::pending().await
}

fn wake(api: &Api, from: Option<WorkspaceId>, to: WorkspaceId) -> HttpResult<oneshot::Receiver<OpError>> {
    api.0
        .wakes
        .begin(from, to, api.0.clock.awake(), api.access().wakes_per_hour)
        .map_err(HttpError::too_many)?;
    let (failed, outcome) = oneshot::channel();
    let (api, own) = (api.clone(), api);
    // The wake continues if the sender disconnects.
    let wake: Boxed<()> = Box::pin(async move {
        let woken = api.0.ops.wake(to).await;
        api.0.wakes.end(to);
        if let Err(error) = woken {
            tracing::warn!(workspace = %to, %error, "could not wake the workspace for a message");
            let _gone = failed.send(error);
        }
    });
    own.0.spawn.spawn(wake);
    Ok(outcome)
}

/// Returns the target and the guard of the in-flight message if the message can be forwarded now; `None` if it cannot
/// be forwarded yet.
fn can_forward(
    api: &Api,
    from: Option<WorkspaceId>,
    to: WorkspaceId,
) -> HttpResult<Option<(Member, InFlightRequest)>> {
    // The message is counted as in flight before the status is read, so that the target is not hibernated in between.
    // The result is `None` while the target is being hibernated.
    let in_flight = api.0.ops.traffic().begin(from, to);
    let member = api.0.store.member(to).ok_or_else(HttpError::gone)?;
    // After a start order was accepted, a message waits for the start instead of being refused.
    let starts = api.0.ops.accepted_starts();
    let pause = api.0.store.pause(to, |id| starts.has(id));
    if pause == Pause::Lasts {
        return Err(paused());
    }
    if pause == Pause::Ends || (matches!(member.status, Status::Failed(_)) && starts.has(to)) {
        return Ok(None);
    }
    match (member.status, in_flight) {
        (Status::Online | Status::Degraded, Some(in_flight)) => Ok(Some((member, in_flight))),
        (Status::Online | Status::Degraded, None)
        // `Paused` is possible here only if the status changed between the two checks above; an event reports that
        // change.
        | (
            Status::Provisioning
            | Status::Offline
            | Status::Hibernating
            | Status::Hibernated
            | Status::Paused,
            _,
        ) => Ok(None),
        (Status::Failed(failure), _) => Err(failed(failure)),
        (Status::AwaitingAgent, _) => {
            let why = "workspace is external and its agent sends no heartbeats";
            Err(HttpError::new(StatusCode::SERVICE_UNAVAILABLE, why).with("status", "awaiting_agent"))
        }
        (Status::Removed, _) => Err(HttpError::gone()),
    }
}
