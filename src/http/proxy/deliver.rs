//! Delivers a message to its target, and retries while it is certain that no byte of it was sent.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue},
    response::Response,
};
use http_body_util::BodyExt;

use super::{
    agent_url::UrlError,
    error::ForwardError,
    hold::hold,
    limits::ForwardLimits,
    request::ForwardRequest,
    target::{Location, Target},
    undelivered::{ended, unreachable, unreached},
};
use crate::{
    domain::{ids::WorkspaceId, time::Awake, workspace::Kind},
    http::{Api, error::HttpResult},
    store::Member,
    testing::mutation::{Mutation, is},
};

/// Header that distinguishes an agent's response from ostler's own. ostler sets it on every response from an agent, and
/// drops a header of this name that the agent sent.
const ANSWERED_BY: HeaderName = HeaderName::from_static("ostler-answered-by");
/// First and longest delay between attempts to connect. The delay doubles after each attempt.
const FIRST_BACK_OFF: Duration = Duration::from_millis(25);
const LONGEST_BACK_OFF: Duration = Duration::from_millis(500);
/// Interval between two inspections of a container that refuses connections. Normally an event reports that a container
/// has exited. The inspection detects an exit whose event was missed.
const INSPECT_INTERVAL: Duration = Duration::from_secs(10);

/// Delivers a message. Retries while it is certain that no byte of it was sent: agent runtimes register, and so become
/// online, before their server listens.
pub(super) async fn deliver(
    api: &Api,
    from: Option<WorkspaceId>,
    to: WorkspaceId,
    message: &ForwardRequest,
    until: Awake,
) -> HttpResult<Response> {
    let mut back_off = FIRST_BACK_OFF;
    let mut inspected_at: Option<Awake> = None;
    loop {
        let (member, in_flight) = hold(api, from, to, until).await?;
        let target = target(api, &member).await?;
        let error = match attempt(api, to, &member, &target, message).await {
            // The message counts as in flight until the response body is dropped: after its last byte, or when the
            // caller disconnects.
            Ok(mut answer) => {
                answer.headers_mut().insert(ANSWERED_BY, HeaderValue::from_static("agent"));
                return Ok(answer.map(|body| {
                    Body::new(body.map_frame(move |frame| {
                        let _in_flight = &in_flight;
                        frame
                    }))
                }));
            }
            Err(error) => error,
        };
        let now = api.0.clock.awake();
        let left = until.since(now);
        if !error.is_unsent() || left.is_zero() || is(Mutation::GiveUpAtFirstRefusal) {
            return Err(unreached(api, to, &member, error).await);
        }
        if inspected_at.is_none_or(|at| now.since(at) >= INSPECT_INTERVAL) {
            inspected_at = Some(now);
            if let Some(ended) = ended(api, to, &member).await {
                return Err(ended);
            }
        }
        // The message counts as in flight during this delay, so that the target is not hibernated between two attempts.
        api.0.clock.sleep(back_off.min(left)).await;
        back_off = (back_off * 2).min(LONGEST_BACK_OFF);
    }
}

async fn attempt(
    api: &Api,
    to: WorkspaceId,
    member: &Member,
    target: &Target,
    message: &ForwardRequest,
) -> Result<axum::http::Response<Body>, ForwardError> {
    let limits = limits(api, to, member);
    let forwarder = &api.0.forwarder;
    if member.kind == Kind::Container && api.0.listeners.needs_proof(api, to, member.incarnation).await {
        forwarder.prove(target, &limits).await?;
        api.0.listeners.proven(api, to, member.incarnation);
    }
    // The target may have been restarted while this function waited for the engine or the agent. The proof must come
    // from a token that the agent still has.
    let is_another = |now: &Member| now.incarnation != member.incarnation;
    if api.0.store.member(to).as_ref().is_some_and(is_another) {
        return Err(ForwardError::NotConnected("the workspace was restarted in the meantime".into()));
    }
    let answer = forwarder.forward(target, message, &limits).await;
    if matches!(answer, Err(ForwardError::Broken(_))) {
        // The agent may have stopped listening while its port still accepts connections.
        api.0.listeners.unproven(to);
    }
    answer
}

async fn target(api: &Api, member: &Member) -> HttpResult<Target> {
    let location = match member.kind {
        Kind::Container => {
            let port = member.host_port.ok_or_else(|| unreachable("its container has no port"))?;
            Location::Local(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        }
        Kind::External => {
            let url = member.url.as_deref().ok_or_else(|| unreachable("it has no url"))?;
            // Resolved and checked again for every message. The connection goes to the checked address.
            let checked = api.check_url(url).await.map_err(|error| {
                tracing::info!(url, %error, "url of an external agent rejected");
                // Names and addresses are left out: the sender may not be allowed to know them.
                unreachable(match error {
                    UrlError::Malformed(_) => "its url is invalid",
                    UrlError::Unresolved { .. } => "the host in its url cannot be resolved now",
                    UrlError::Refused { .. } => {
                        "the host in its url resolves to an address that is not allowed"
                    }
                })
            })?;
            Location::Checked(checked)
        }
    };
    Ok(Target { location, proofs: member.proofs(api.0.clock.now()) })
}

fn limits(api: &Api, to: WorkspaceId, member: &Member) -> ForwardLimits {
    let (store, clock) = (api.0.store.clone(), Arc::clone(&api.0.clock));
    let alive = Arc::new(move || {
        let heartbeat_at = store.member(to)?.last_report.heartbeat_at?;
        Some(clock.awake() - clock.now().since(heartbeat_at))
    });
    let mut limits = ForwardLimits::new(alive);
    if let Some(seconds) = member.last_report.idle_timeout_seconds {
        limits.idle = Duration::from_secs(seconds.into());
    }
    limits
}
