//! Admission control: limits each workspace's requests in flight, and the bytes of their bodies and responses in
//! memory.
//!
//! Requests and bytes are counted under the workspace whose token came with the request, never under an address: with
//! rootless Podman all containers share one address. Heartbeats and registrations are not counted here: they prove that
//! an agent is alive, and the limit on connections of a workspace bounds them.
//!
//! A body is read only after its request was admitted, and its bytes are reserved before they are read. A reservation
//! is bound to the bytes and ends when they are dropped, because only then has the last byte certainly been written.

mod limits;
mod load;
pub(in crate::http) mod refusal;

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    body::{Body, Bytes, HttpBody},
    extract::{Request, State},
    http::{Extensions, Response},
    middleware::Next,
    response::IntoResponse as _,
};
use hyper::body::{Frame, SizeHint};

use crate::{
    http::{
        Api,
        auth::{self, OwnSocket, Presented, Verified},
        body::{BodyError, read_body, read_body_within},
        error::HttpError,
        proxy::message::call_id,
    },
    runtime::clock::Clock,
    store::TokenSubject,
};

use load::{Class, Entry, Owner, Reserved};

pub(in crate::http) use load::Admission;
use refusal::Refusal;

/// Largest body, in bytes, that is still read when a message is refused, and the time limit for reading it.
const REFUSED_MAX_BYTES: usize = 64 << 10;
const REFUSED_LIMIT: Duration = Duration::from_secs(2);
/// Bodies and responses up to this size are not reserved; the limit on requests in flight bounds them. So large
/// messages of a few workspaces never block small messages of the others.
const SMALL: usize = 64 << 10;

/// Request extension of an admitted request.
#[derive(Clone)]
pub(in crate::http) struct Admitted {
    admission: Admission,
    owner: Owner,
}

/// A body in memory with its reservation.
pub(in crate::http) struct Read {
    bytes: Bytes,
    reserved: Reserved,
}

impl Read {
    /// The body. Its reservation ends when the last of the bytes is dropped.
    pub(in crate::http) fn into_bytes(self) -> Bytes {
        let Self { bytes, reserved } = self;
        Bytes::from_owner(Owned { bytes, _reserved: Arc::new(reserved) })
    }
}

struct Owned<G> {
    bytes: Bytes,
    _reserved: Arc<G>,
}

impl<G> AsRef<[u8]> for Owned<G> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Admitted {
    /// Returns the extension of a request. Requests on routes without admission control have no extension: their bodies
    /// are counted under the owner `None`, like those of admins.
    pub(in crate::http) fn of(api: &Api, extensions: &Extensions) -> Self {
        let found = extensions.get::<Self>().cloned();
        found.unwrap_or_else(|| Self { admission: api.0.admission.clone(), owner: None })
    }

    /// Reads a request body of at most `most` bytes within `limit` in total.
    ///
    /// # Errors
    /// See [`BodyError`]. A body whose announced length is too large or cannot be reserved is refused before it is
    /// read.
    pub(in crate::http) async fn read(
        &self,
        body: Body,
        most: usize,
        limit: Duration,
        clock: &dyn Clock,
    ) -> Result<Read, BodyError> {
        let mut reserved = Reserved { admission: self.admission.clone(), owner: self.owner, bytes: 0 };
        let mut room = |bytes: usize| {
            if bytes <= SMALL { Ok(()) } else { reserved.grow_to(bytes).map_err(BodyError::NoRoom) }
        };
        let bytes = read_body_within(body, most, limit, clock, &mut room).await?;
        Ok(Read { bytes, reserved })
    }
}

/// Admits a workspace's request, or refuses it and returns its unread body. A request without a valid token is passed
/// on: its handler refuses it.
async fn admit(
    class: Class,
    api: &Api,
    mut request: Request,
    next: Next,
) -> Result<Response<Body>, (Refusal, Body)> {
    let own_socket = request.extensions().get::<OwnSocket>().is_some();
    let token_subject = match auth::presented(request.headers(), own_socket) {
        Presented::OwnSocket => Some(TokenSubject::Admin),
        Presented::Nothing => None,
        Presented::Token(token) => {
            let found = auth::token_subject(api, token, request.extensions());
            if let Some(found) = found {
                request.extensions_mut().insert(Verified(found));
            }
            found
        }
    };
    let owner = match token_subject {
        None => return Ok(next.run(request).await),
        Some(TokenSubject::Admin) => None,
        Some(TokenSubject::Workspace(token_owner)) => Some(token_owner.workspace),
    };
    let admission = &api.0.admission;
    let entry = match admission.enter(owner, class) {
        Ok(entry) => entry,
        Err(refusal) => return Err((refusal, request.into_body())),
    };
    request.extensions_mut().insert(Admitted { admission: admission.clone(), owner });
    let answer = next.run(request).await;
    // The response to a message is streamed and never in memory as a whole.
    let size = match class {
        Class::Message => 0,
        Class::Other => answer.size_hint_of_body(),
    };
    if size <= SMALL {
        return Ok(answer.map(|body| Body::new(Guarded { body, guard: entry, bind: None })));
    }
    Ok(match admission.reserve(owner, size) {
        Ok(reserved) => {
            let bind = Some(Arc::new(reserved));
            answer.map(|body| Body::new(Guarded { body, guard: entry, bind }))
        }
        Err(refusal) => HttpError::from(refusal).into_response(),
    })
}

/// Middleware that admits messages. A refusal is a JSON-RPC error if the message is a JSON-RPC request, so a small body
/// is read even if the message is refused.
pub(in crate::http) async fn message(State(api): State<Api>, request: Request, next: Next) -> Response<Body> {
    match admit(Class::Message, &api, request, next).await {
        Ok(answer) => answer,
        Err((refusal, body)) => refuse_unread(&api, refusal.into(), body).await,
    }
}

/// Middleware that admits all other requests.
pub(in crate::http) async fn other(State(api): State<Api>, request: Request, next: Next) -> Response<Body> {
    let answer = admit(Class::Other, &api, request, next).await;
    answer.unwrap_or_else(|(refusal, _)| HttpError::from(refusal).into_response())
}

/// [`refuse`] for a message whose body was not read yet. Only a small body is read: a refused request must not use much
/// memory.
pub(in crate::http) async fn refuse_unread(api: &Api, error: HttpError, body: Body) -> Response<Body> {
    let read = read_body(body, REFUSED_MAX_BYTES, REFUSED_LIMIT, &*api.0.clock).await;
    refuse(error, &read.unwrap_or_default())
}

/// The response to a refused message: a JSON-RPC error if the message is a JSON-RPC request with an id.
pub(in crate::http) fn refuse(error: HttpError, message: &[u8]) -> Response<Body> {
    match call_id(message) {
        Some(id) => error.into_rpc(&id),
        None => error.into_response(),
    }
}

trait SizeOfBody {
    fn size_hint_of_body(&self) -> usize;
}

impl SizeOfBody for Response<Body> {
    fn size_hint_of_body(&self) -> usize {
        usize::try_from(HttpBody::size_hint(self.body()).lower()).unwrap_or(usize::MAX)
    }
}

/// A response body. Its request counts as in flight until the body is dropped.
struct Guarded {
    body: Body,
    #[expect(dead_code, reason = "never read: dropping it with the body releases the slot")]
    guard: Entry,
    /// The reservation of the body's bytes, which every chunk keeps alive. The body cannot do this: the server drops it
    /// after taking the last chunk, long before a slow client has received that chunk.
    bind: Option<Arc<Reserved>>,
}

impl HttpBody for Guarded {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let Some(reserved) = &self.bind else { return Poll::Ready(frame) };
        Poll::Ready(frame.map(|frame| {
            frame.map(|frame| {
                frame.map_data(|bytes| Bytes::from_owner(Owned { bytes, _reserved: Arc::clone(reserved) }))
            })
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::ids::WorkspaceId;

    #[test]
    fn byte_reservation_is_released_with_the_last_slice() {
        let admission = Admission::default();
        let reserved = admission.reserve(Some(WorkspaceId(Uuid::from_u128(1))), 1 << 20).unwrap();
        let bytes = Read { bytes: Bytes::from(vec![b'x'; 1 << 20]), reserved }.into_bytes();
        let part = bytes.slice(..10);
        drop(bytes);
        assert_eq!(admission.lock().bytes, 1 << 20);
        drop(part);
        assert_eq!(admission.lock().bytes, 0);
    }
}
