//! The handler of a message: checks it, and forwards or stores it.

use std::time::Duration;

use axum::{
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header::CONTENT_ENCODING},
    response::Response,
};

use super::{
    deliver::deliver, hold::patience, mailbox::queue, message::complete_message, request::ForwardRequest,
};
use crate::{
    domain::{
        ids::WorkspaceId,
        status::Status,
        workspace::{Delivery, Kind},
    },
    http::{
        Api,
        auth::{self, Principal, WORKSPACE_HEADER},
        error::{HttpError, HttpResult},
        journal::Exchange,
        routes::Path,
        server::admission::{Admitted, refuse, refuse_unread},
    },
    store::Scope,
};

/// Largest message, in bytes.
const MESSAGE_MAX_BYTES: usize = 10 << 20;
/// Time limit for receiving a message.
const MESSAGE_LIMIT: Duration = Duration::from_mins(1);

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
pub(in crate::http) async fn message(
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
pub(in crate::http) fn polls(api: &Api, to: WorkspaceId) -> bool {
    let member = api.0.store.member(to);
    member.is_some_and(|member| member.kind == Kind::External && member.delivery == Delivery::Poll)
}

/// Forwards a complete message of an allowed sender, or stores it if its target polls. Writes one row of activity for
/// it.
pub(in crate::http) async fn pass_on(
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
