//! Handles messages between agents (wire protocol, §6): checks each message, holds it while its target wakes, and
//! forwards it.
//!
//! A caller's request is held rather than queued. Existing agent runtimes cannot handle an "accepted" response, and a
//! queue could lose a message after its sender was informed that it was accepted. The sender gets either the agent's
//! own response or an error. The target's state is read again, from memory, after every change; no earlier state is
//! reused.

mod hold;
mod mailbox;
mod wake;

use std::{
    collections::HashMap,
    fmt::Display,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header::CONTENT_ENCODING},
    response::Response,
};
use http_body_util::BodyExt;
use tokio::sync::OnceCell;

use super::{
    Api,
    auth::{self, Principal, WORKSPACE_HEADER},
    error::{HttpError, HttpResult},
    forward::{ForwardError, ForwardLimits, ForwardRequest, Location, Target, complete_message},
    journal::Exchange,
    outbound::UrlError,
    routes::Path,
    server::admission::{Admitted, refuse, refuse_unread},
};
use crate::{
    domain::{
        ids::{Incarnation, WorkspaceId},
        status::Status,
        time::Awake,
        workspace::{Delivery, Kind},
    },
    ops::{Applied, Order},
    store::{Member, Scope},
    testing::mutation::{Mutation, is},
};

use hold::{TRY_AGAIN, failed, hold, patience};
use mailbox::queue;

pub(super) use wake::WakeBudget;

/// Largest message, in bytes.
const MESSAGE_MAX_BYTES: usize = 10 << 20;
/// Time limit for receiving a message.
const MESSAGE_LIMIT: Duration = Duration::from_mins(1);
/// Header that distinguishes an agent's response from ostler's own. ostler sets it on every response from an agent, and
/// drops a header of this name that the agent sent.
const ANSWERED_BY: HeaderName = HeaderName::from_static("ostler-answered-by");
/// First and longest delay between attempts to connect. The delay doubles after each attempt.
const FIRST_BACK_OFF: Duration = Duration::from_millis(25);
const LONGEST_BACK_OFF: Duration = Duration::from_millis(500);
/// Interval between two inspections of a container that refuses connections. Normally an event reports that a container
/// has exited. The inspection detects an exit whose event was missed.
const INSPECT_INTERVAL: Duration = Duration::from_secs(10);
/// The container port that is published on the host (wire protocol, §8).
const AGENT_PORT: u16 = 8000;

/// The sending workspace; `None` for an admin.
///
/// # Errors
/// When the `X-Workspace-ID` header is not an id, or names another workspace than the token's owner.
fn sender(principal: Principal, headers: &HeaderMap) -> HttpResult<Option<WorkspaceId>> {
    let claimed = if headers.contains_key(WORKSPACE_HEADER) { Some(auth::caller(headers)?) } else { None };
    match (principal, claimed) {
        (Principal::Admin, _) => Ok(None),
        (Principal::Workspace(token_owner), None) => Ok(Some(token_owner.workspace)),
        (Principal::Workspace(token_owner), Some(claimed)) if claimed == token_owner.workspace => {
            Ok(Some(claimed))
        }
        (Principal::Workspace(_), Some(_)) => Err(auth::invalid()),
    }
}

/// A message's body, read only when it is needed: the message may be refused first.
struct Incoming {
    unread: Option<Body>,
    read: Bytes,
    admitted: Admitted,
}

impl Incoming {
    async fn read(&mut self, api: &Api) -> HttpResult<Bytes> {
        if let Some(body) = self.unread.take() {
            let read = self.admitted.read(body, MESSAGE_MAX_BYTES, MESSAGE_LIMIT, &*api.0.clock).await?;
            self.read = read.into_bytes();
        }
        Ok(self.read.clone())
    }
}

/// Handles a message.
///
/// ostler's own errors are JSON-RPC errors if and only if the message is a JSON-RPC 2.0 request with an id; otherwise
/// they are ostler's usual error object. The HTTP status is the same in both.
pub(super) async fn message(
    State(api): State<Api>,
    principal: HttpResult<Principal>,
    Path(reference): Path<String>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let admitted = Admitted::of(&api, &parts.extensions);
    let mut incoming = Incoming { unread: Some(body), read: Bytes::new(), admitted };
    match pass(&api, principal, &reference, parts.headers, &mut incoming).await {
        Ok(answer) => answer,
        Err(error) => match incoming.unread {
            Some(unread) => refuse_unread(&api, error, unread).await,
            None => refuse(error, &incoming.read),
        },
    }
}

async fn pass(
    api: &Api,
    principal: HttpResult<Principal>,
    reference: &str,
    headers: HeaderMap,
    incoming: &mut Incoming,
) -> HttpResult<Response> {
    let principal = principal?;
    let from = sender(principal, &headers)?;
    let to = match WorkspaceId::from_client(reference) {
        Ok(id) if api.0.store.member(id).is_some() => id,
        Ok(_) | Err(_) => {
            let row = api.addressed(principal, reference, Scope::Any).await?;
            if row.status == Status::Removed {
                return Err(HttpError::gone());
            }
            row.id
        }
    };
    if let Some(from) = from
        && !api.0.store.may_communicate(from, to, api.access().root_siblings)
    {
        return Err(HttpError::forbidden("access denied: workspaces cannot communicate per hierarchy rules"));
    }
    // The body is parsed and completed below, so it must not be compressed.
    if let Some(encoding) = headers.get(CONTENT_ENCODING).filter(|encoding| *encoding != "identity") {
        let encoding = String::from_utf8_lossy(encoding.as_bytes());
        let why = format!("`Content-Encoding: {encoding}` is not supported: send the message uncompressed");
        return Err(HttpError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, why));
    }
    let body = incoming.read(api).await?;
    let fresh_id = || api.0.entropy.uuid().to_string();
    let body = complete_message(&body, fresh_id).map_err(|error| HttpError::invalid(error.to_string()))?;
    pass_on(api, from, to, headers, body).await
}

/// Whether messages to a workspace are stored for its agent to poll.
pub(super) fn polls(api: &Api, to: WorkspaceId) -> bool {
    let member = api.0.store.member(to);
    member.is_some_and(|member| member.kind == Kind::External && member.delivery == Delivery::Poll)
}

/// Forwards a complete message of an allowed sender, or stores it if its target polls. Writes one row of activity for
/// it.
pub(super) async fn pass_on(
    api: &Api,
    from: Option<WorkspaceId>,
    to: WorkspaceId,
    headers: HeaderMap,
    body: Bytes,
) -> HttpResult<Response> {
    if polls(api, to) {
        // The stored row is the message itself. So a refused message gets no row: the agent would receive that row as a
        // message.
        return queue(api, from, to, &body).await;
    }
    let exchange = Exchange::begin(api, from, to, &body);
    let caller = from.map_or_else(|| "admin".to_owned(), |from| from.to_string());
    let until = api.0.clock.awake() + patience(&headers);
    let message = ForwardRequest { body, headers, caller };
    match deliver(api, from, to, &message, until).await {
        Ok(answer) => Ok(exchange.follow(answer)),
        Err(error) => {
            exchange.failed(&error);
            Err(error)
        }
    }
}

/// Delivers a message. Retries while it is certain that no byte of it was sent: agent runtimes register, and so become
/// online, before their server listens.
async fn deliver(
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

/// Containers whose agent is known to listen.
///
/// Needed for rootless Podman, which forwards ports in user space: it accepts every connection and closes it if the
/// agent does not listen, so a successful connect proves nothing.
#[derive(Default)]
pub(super) struct Listeners {
    /// Whether ports are forwarded in user space. Requested from the engine once, if no other component has done so.
    in_user_space: OnceCell<bool>,
    known: Mutex<HashMap<WorkspaceId, Incarnation>>,
}

impl Listeners {
    async fn needs_proof(&self, api: &Api, id: WorkspaceId, incarnation: Incarnation) -> bool {
        let asked = async || {
            let described = api.ask_engine(api.0.engine.describe()).await;
            described.and_then(Result::ok).map(|engine| engine.rootless).ok_or(())
        };
        let in_user_space = match api.0.ops.gateways().is_rootless() {
            Some(rootless) => rootless,
            // If the engine does not respond, a proof is required. This costs only one additional request.
            None => self.in_user_space.get_or_try_init(asked).await.copied().unwrap_or(true),
        };
        in_user_space && self.lock().get(&id) != Some(&incarnation)
    }

    fn proven(&self, api: &Api, id: WorkspaceId, incarnation: Incarnation) {
        let mut known = self.lock();
        known.retain(|id, _| api.0.store.member(*id).is_some());
        known.insert(id, incarnation);
    }

    fn unproven(&self, id: WorkspaceId) {
        self.lock().remove(&id);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<WorkspaceId, Incarnation>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A failure to reach the agent, with the prefix that the wire protocol prescribes (§6).
fn unreachable(why: impl Display) -> HttpError {
    HttpError::new(StatusCode::BAD_GATEWAY, format!("failed to reach workspace agent: {why}"))
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

/// The error for a sender whose message got no response.
async fn unreached(api: &Api, to: WorkspaceId, member: &Member, error: ForwardError) -> HttpError {
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
async fn ended(api: &Api, to: WorkspaceId, member: &Member) -> Option<HttpError> {
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
async fn name_of(api: &Api, id: WorkspaceId) -> String {
    match api.0.store.workspace(id).await {
        Ok(Some(row)) => row.name.to_string(),
        Ok(None) | Err(_) => id.to_string(),
    }
}
