//! Messages between agents (wire protocol, §6): checked, held while their target wakes, passed on.
//!
//! A caller's request is held rather than queued: the runtimes in the field cannot use "accepted", and a queue is a
//! place where a message can be lost after its sender was told otherwise. Whoever sends has the agent's own answer, or
//! an error. What a target is, is asked again after every change, from memory; nothing here trusts an earlier look.

mod hold;
mod wake;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use http_body_util::BodyExt;

use super::{
    Api,
    auth::{self, Principal, WORKSPACE_HEADER},
    error::{HttpError, HttpResult},
    forward::{ForwardError, ForwardLimits, ForwardRequest, Target, complete_message},
    listen::read_body,
    routes::Path,
};
use crate::{
    domain::{ids::WorkspaceId, status::Status, workspace::Kind},
    ops::{Applied, Order},
    store::{Member, Scope},
};

use hold::{failed, hold, patience};

pub(super) use wake::WakeBudget;

/// The largest message.
const MESSAGE_MAX_BYTES: usize = 10 << 20;
/// How long a message may take to arrive.
const MESSAGE_LIMIT: Duration = Duration::from_mins(1);
/// Who sends; an admin sends as nobody.
fn sender(principal: Principal, headers: &HeaderMap) -> HttpResult<Option<WorkspaceId>> {
    let claimed = if headers.contains_key(WORKSPACE_HEADER) { Some(auth::caller(headers)?) } else { None };
    match (principal, claimed) {
        (Principal::Admin, _) => Ok(None),
        (Principal::Workspace(holder), None) => Ok(Some(holder.workspace)),
        (Principal::Workspace(holder), Some(claimed)) if claimed == holder.workspace => Ok(Some(claimed)),
        (Principal::Workspace(_), Some(_)) => Err(auth::invalid()),
    }
}

pub(super) async fn message(
    State(api): State<Api>,
    principal: Principal,
    Path(reference): Path<String>,
    request: Request,
) -> HttpResult<Response> {
    let from = sender(principal, request.headers())?;
    let to = match WorkspaceId::from_client(&reference) {
        Ok(id) if api.0.store.member(id).is_some() => id,
        Ok(_) | Err(_) => {
            let row = api.addressed(principal, &reference, Scope::Any).await?;
            if row.status == Status::Removed {
                return Err(HttpError::gone());
            }
            row.id
        }
    };
    if let Some(from) = from
        && !api.0.store.may_communicate(from, to, api.0.access.root_siblings)
    {
        return Err(HttpError::forbidden("access denied: workspaces cannot communicate per hierarchy rules"));
    }
    let (parts, body) = request.into_parts();
    let body = read_body(body, MESSAGE_MAX_BYTES, MESSAGE_LIMIT, &*api.0.clock).await?;
    let fresh_id = || api.0.entropy.uuid().to_string();
    let body = complete_message(&body, fresh_id).map_err(|error| HttpError::invalid(error.to_string()))?;
    let (member, passage) = hold(&api, from, to, patience(&parts.headers)).await?;
    let caller = from.map_or_else(|| "admin".to_owned(), |from| from.to_string());
    let request = ForwardRequest { body, headers: parts.headers, caller };
    let target = target(&api, &member).await?;
    match api.0.forwarder.forward(&target, request, &limits(&api, to, &member)).await {
        // The passage ends with the answer's last byte, or with whoever reads it going away.
        Ok(answer) => Ok(answer.map(|body| {
            Body::new(body.map_frame(move |frame| {
                let _on_its_way = &passage;
                frame
            }))
        })),
        Err(error) => Ok(unreached(&api, to, &member, error).await.into_response()),
    }
}

async fn target(api: &Api, member: &Member) -> HttpResult<Target> {
    let unreachable = || HttpError::new(StatusCode::BAD_GATEWAY, "failed to reach workspace agent");
    match member.kind {
        Kind::Container => {
            let port = member.host_port.ok_or_else(unreachable)?;
            Ok(Target::Local(SocketAddr::from((Ipv4Addr::LOCALHOST, port))))
        }
        Kind::External => {
            let url = member.url.as_deref().ok_or_else(unreachable)?;
            // Resolved and judged anew for every message, and the connection goes where was judged.
            Ok(Target::Checked(api.check_url(url).await.map_err(|_| unreachable())?))
        }
    }
}

fn limits(api: &Api, to: WorkspaceId, member: &Member) -> ForwardLimits {
    let (store, clock) = (api.0.store.clone(), Arc::clone(&api.0.clock));
    let alive = Arc::new(move || {
        let heard_at = store.member(to)?.said.heard_at?;
        Some(clock.awake() - clock.now().since(heard_at))
    });
    let mut limits = ForwardLimits::new(alive);
    if let Some(seconds) = member.said.idle_timeout_seconds {
        limits.idle = Duration::from_secs(seconds.into());
    }
    limits
}

/// What a sender is told whose message did not get there. Whether a container is dead is found out by looking at it,
/// and what follows from that is begun by the same look.
async fn unreached(api: &Api, to: WorkspaceId, member: &Member, error: ForwardError) -> HttpError {
    tracing::info!(workspace = %to, %error, "a message did not get there");
    match error {
        ForwardError::TooLarge => {
            HttpError::new(StatusCode::BAD_GATEWAY, "the agent's answer is larger than 64 MiB")
        }
        ForwardError::TimedOut(_) => HttpError::new(StatusCode::GATEWAY_TIMEOUT, error.to_string()),
        ForwardError::Refused | ForwardError::Unreachable(_) => {
            if member.kind == Kind::Container {
                let looked = api.0.ops.order(to, Order::MarkOffline(member.incarnation)).await;
                let ended = matches!(looked, Ok(Applied::Done(_)));
                let status = api.0.store.member(to).map(|now| now.status);
                if let Some(Status::Failed(failure)) = status {
                    // It ended once too often: nobody starts it again.
                    return failed(failure);
                }
                if ended || status == Some(Status::Offline) {
                    let message = "workspace agent unreachable — container restart triggered";
                    return HttpError::new(StatusCode::SERVICE_UNAVAILABLE, message).with("restarting", true);
                }
            }
            HttpError::new(StatusCode::BAD_GATEWAY, "failed to reach workspace agent")
        }
    }
}
