//! The errors for the sender of a message that was not delivered.

use std::fmt::Display;

use axum::http::StatusCode;

use super::error::ForwardError;
use crate::{
    domain::{
        ids::WorkspaceId,
        status::{Failure, Status},
        workspace::Kind,
    },
    http::{Api, error::HttpError},
    ops::{Applied, Order},
    store::Member,
};

/// The container port that is published on the host (wire protocol, §8).
const AGENT_PORT: u16 = 8000;
/// Delay after which the sender may retry if the target was not ready in time, in seconds.
pub(super) const TRY_AGAIN: u64 = 15;

/// A failure to reach the agent, with the prefix that the wire protocol prescribes (§6).
pub(super) fn unreachable(why: impl Display) -> HttpError {
    HttpError::new(StatusCode::BAD_GATEWAY, format!("failed to reach workspace agent: {why}"))
}

/// The error for a sender whose message got no response.
pub(super) async fn unreached(api: &Api, to: WorkspaceId, member: &Member, error: ForwardError) -> HttpError {
    tracing::info!(workspace = %to, %error, "message got no response");
    match error {
        ForwardError::TimedOut(_) => HttpError::new(StatusCode::GATEWAY_TIMEOUT, error.to_string()),
        ForwardError::Refused | ForwardError::NotConnected(_) | ForwardError::Broken(_) => {
            if let Some(ended) = ended(api, to, member).await {
                return ended;
            }
            if error != ForwardError::Refused {
                return unreachable(error);
            }
            let name = name_of(api, to).await;
            let why = match member.kind {
                Kind::Container => format!(
                    "{name} is running, but nothing listens on port {AGENT_PORT}: its agent is still starting its \
                     server or uses another port. Check `ostler logs {name}`"
                ),
                Kind::External => format!("{name} is online but does not accept connections at its url"),
            };
            HttpError::new(StatusCode::SERVICE_UNAVAILABLE, why)
                .with("retry_after", TRY_AGAIN)
                .retry_after(TRY_AGAIN)
        }
        ForwardError::Unusable(_) | ForwardError::Odd(_) | ForwardError::TooLarge => unreachable(error),
    }
}

/// Inspects the target's container. If it has exited, the same operation marks the workspace offline, which schedules
/// its restart. Returns the error for the sender; `None` if the container has not exited.
pub(super) async fn ended(api: &Api, to: WorkspaceId, member: &Member) -> Option<HttpError> {
    if member.kind != Kind::Container {
        return None;
    }
    let inspected = api.0.ops.order(to, Order::MarkOffline(member.incarnation)).await;
    let ended = matches!(inspected, Ok(Applied::Done(_)));
    let status = api.0.store.member(to).map(|now| now.status);
    if let Some(Status::Failed(failure)) = status {
        // The workspace exceeded its restart limit and is not restarted.
        return Some(failed(failure));
    }
    (ended || status == Some(Status::Offline)).then(|| {
        let message = "workspace agent unreachable — container restart triggered";
        HttpError::new(StatusCode::SERVICE_UNAVAILABLE, message).with("restarting", true)
    })
}

/// The workspace's name for error messages; its id if the name cannot be read.
pub(super) async fn name_of(api: &Api, id: WorkspaceId) -> String {
    match api.0.store.workspace(id).await {
        Ok(Some(row)) => row.name.to_string(),
        Ok(None) | Err(_) => id.to_string(),
    }
}

pub(super) fn failed(failure: Failure) -> HttpError {
    let why = format!("workspace has failed ({}); run `ostler why` for the reason", failure.as_str());
    HttpError::new(StatusCode::SERVICE_UNAVAILABLE, why).with("status", "failed")
}

/// The error for a paused target, which must neither run nor receive messages.
pub(super) fn paused() -> HttpError {
    HttpError::conflict("workspace or one of its ancestors is paused: resume it with `ostler start`")
}
