//! Admission control: limits each workspace's requests in flight, and the bytes of their bodies and responses in
//! memory.
//!
//! Requests and bytes are counted under the workspace whose token came with the request, never under an address: with
//! rootless Podman all containers share one address. Heartbeats and registrations are not counted here: they prove that
//! an agent is alive, and the limit on connections of a workspace bounds them.
//!
//! A body is read only after its request was admitted, and its bytes are reserved before they are read. A reservation
//! is bound to the bytes and ends when they are dropped, because only then has the last byte certainly been written.

use std::{
    collections::HashMap,
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    body::{Body, Bytes, HttpBody},
    extract::{Request, State},
    http::{Extensions, Response, StatusCode},
    middleware::Next,
    response::IntoResponse as _,
};
use hyper::body::{Frame, SizeHint};

use super::{
    Api,
    auth::{self, OwnSocket, Presented, Verified},
    body::{BodyError, read_body, read_body_within},
    error::HttpError,
    forward::call_id,
};
use crate::{domain::ids::WorkspaceId, runtime::clock::Clock, store::TokenSubject};

/// Largest body, in bytes, that is still read when a message is refused, and the time limit for reading it.
const REFUSED_MAX_BYTES: usize = 64 << 10;
const REFUSED_LIMIT: Duration = Duration::from_secs(2);
/// Most messages of one workspace in flight. Enough for an agent that delegates to all its peers at once.
const MESSAGES: usize = 32;
/// Most messages of all workspaces in flight.
const MESSAGES_IN_ALL: usize = 1024;
/// Most other requests of one workspace in flight.
const OTHERS: usize = 32;
/// Most bytes that one workspace may have in memory: two messages of the largest size.
const BYTES: usize = 24 << 20;
/// Most bytes that all workspaces together may have in memory.
const BYTES_IN_ALL: usize = 64 << 20;
/// Bodies and responses up to this size are not reserved; the limit on requests in flight bounds them. So large
/// messages of a few workspaces never block small messages of the others.
const SMALL: usize = 64 << 10;
/// Delay after which a refused client may retry, in seconds.
const RETRY_AFTER: u64 = 2;

/// Requests that are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Messages to other agents; one may be in flight for half an hour.
    Message,
    /// All other requests of a workspace, except heartbeats and registrations.
    Other,
}

/// Why a request is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The workspace's requests of one class in flight have reached this limit.
    Requests(usize),
    /// The messages of all workspaces in flight have reached `MESSAGES_IN_ALL`.
    RequestsInAll,
    /// The workspace's bytes in memory would exceed `BYTES`.
    Bytes,
    /// The bytes of all workspaces in memory would exceed `BYTES_IN_ALL`.
    BytesInAll,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Requests(most) => {
                write!(
                    f,
                    "this workspace already has {most} requests of this kind in flight, the maximum; retry later"
                )
            }
            Self::RequestsInAll => f.write_str("the daemon has too many messages in flight; retry later"),
            Self::Bytes => {
                write!(
                    f,
                    "messages and responses in flight of this workspace would exceed {} MiB; retry later",
                    BYTES >> 20
                )
            }
            Self::BytesInAll => f.write_str("the daemon has too many large messages in flight; retry later"),
        }
    }
}

impl From<Refusal> for HttpError {
    fn from(refusal: Refusal) -> Self {
        let status = match refusal {
            Refusal::Requests(_) | Refusal::Bytes => StatusCode::TOO_MANY_REQUESTS,
            Refusal::RequestsInAll | Refusal::BytesInAll => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, refusal.to_string()).with("retry_after", RETRY_AFTER).retry_after(RETRY_AFTER)
    }
}

/// The owner that a request is counted under: a workspace, or `None` for admins.
type Owner = Option<WorkspaceId>;

/// Requests and bytes in flight.
#[derive(Clone, Default)]
pub(super) struct Admission(Arc<Mutex<Load>>);

#[derive(Default)]
struct Load {
    by_owner: HashMap<Owner, Share>,
    messages: usize,
    bytes: usize,
}

#[derive(Default)]
struct Share {
    messages: usize,
    others: usize,
    bytes: usize,
}

impl Admission {
    fn lock(&self) -> MutexGuard<'_, Load> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Admits a request until its response is dropped. The number of admin requests in flight has no limit of its own:
    /// messages of admins count only towards `MESSAGES_IN_ALL`.
    fn enter(&self, owner: Owner, class: Class) -> Result<Entry, Refusal> {
        let mut load = self.lock();
        if class == Class::Message && load.messages >= MESSAGES_IN_ALL {
            return Err(Refusal::RequestsInAll);
        }
        let share = load.by_owner.entry(owner).or_default();
        let (count, most) = match class {
            Class::Message => (&mut share.messages, MESSAGES),
            Class::Other => (&mut share.others, OTHERS),
        };
        if owner.is_some() && *count >= most {
            return Err(Refusal::Requests(most));
        }
        *count += 1;
        if class == Class::Message {
            load.messages += 1;
        }
        Ok(Entry { admission: self.clone(), owner, class })
    }

    fn reserve(&self, owner: Owner, bytes: usize) -> Result<Reserved, Refusal> {
        let mut reserved = Reserved { admission: self.clone(), owner, bytes: 0 };
        reserved.grow_to(bytes)?;
        Ok(reserved)
    }
}

impl Load {
    fn forget_if_empty(&mut self, owner: Owner) {
        if self.by_owner.get(&owner).is_some_and(|share| share.messages + share.others + share.bytes == 0) {
            self.by_owner.remove(&owner);
        }
    }
}

/// Guard of a request. The request counts as in flight until this guard is dropped.
struct Entry {
    admission: Admission,
    owner: Owner,
    class: Class,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut load = self.admission.lock();
        if let Some(share) = load.by_owner.get_mut(&self.owner) {
            match self.class {
                Class::Message => share.messages -= 1,
                Class::Other => share.others -= 1,
            }
        }
        if self.class == Class::Message {
            load.messages -= 1;
        }
        load.forget_if_empty(self.owner);
    }
}

/// Bytes that are in memory, or are about to be.
struct Reserved {
    admission: Admission,
    owner: Owner,
    bytes: usize,
}

impl Reserved {
    fn grow_to(&mut self, bytes: usize) -> Result<(), Refusal> {
        let Some(more) = bytes.checked_sub(self.bytes).filter(|more| *more > 0) else { return Ok(()) };
        let mut load = self.admission.lock();
        if load.bytes + more > BYTES_IN_ALL {
            return Err(Refusal::BytesInAll);
        }
        let share = load.by_owner.entry(self.owner).or_default();
        // Admin requests have this limit too, because otherwise they could use up the bytes of all workspaces.
        if share.bytes + more > BYTES {
            return Err(Refusal::Bytes);
        }
        share.bytes += more;
        load.bytes += more;
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if self.bytes == 0 {
            return;
        }
        let mut load = self.admission.lock();
        load.bytes -= self.bytes;
        if let Some(share) = load.by_owner.get_mut(&self.owner) {
            share.bytes -= self.bytes;
        }
        load.forget_if_empty(self.owner);
    }
}

/// Request extension of an admitted request.
#[derive(Clone)]
pub(super) struct Admitted {
    admission: Admission,
    owner: Owner,
}

/// A body in memory with its reservation.
pub(super) struct Read {
    bytes: Bytes,
    reserved: Reserved,
}

impl Read {
    /// The body. Its reservation ends when the last of the bytes is dropped.
    pub(super) fn into_bytes(self) -> Bytes {
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
    pub(super) fn of(api: &Api, extensions: &Extensions) -> Self {
        let found = extensions.get::<Self>().cloned();
        found.unwrap_or_else(|| Self { admission: api.0.admission.clone(), owner: None })
    }

    /// Reads a request body of at most `most` bytes within `limit` in total.
    ///
    /// # Errors
    /// See [`BodyError`]. A body whose announced length is too large or cannot be reserved is refused before it is
    /// read.
    pub(super) async fn read(
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
pub(super) async fn message(State(api): State<Api>, request: Request, next: Next) -> Response<Body> {
    match admit(Class::Message, &api, request, next).await {
        Ok(answer) => answer,
        Err((refusal, body)) => refuse_unread(&api, refusal.into(), body).await,
    }
}

/// Middleware that admits all other requests.
pub(super) async fn other(State(api): State<Api>, request: Request, next: Next) -> Response<Body> {
    let answer = admit(Class::Other, &api, request, next).await;
    answer.unwrap_or_else(|(refusal, _)| HttpError::from(refusal).into_response())
}

/// [`refuse`] for a message whose body was not read yet. Only a small body is read: a refused request must not use much
/// memory.
pub(super) async fn refuse_unread(api: &Api, error: HttpError, body: Body) -> Response<Body> {
    let read = read_body(body, REFUSED_MAX_BYTES, REFUSED_LIMIT, &*api.0.clock).await;
    refuse(error, &read.unwrap_or_default())
}

/// The response to a refused message: a JSON-RPC error if the message is a JSON-RPC request with an id.
pub(super) fn refuse(error: HttpError, message: &[u8]) -> Response<Body> {
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

    const fn workspace(number: u128) -> WorkspaceId {
        WorkspaceId(Uuid::from_u128(number))
    }

    const ONE: Owner = Some(workspace(1));
    const OTHER: Owner = Some(workspace(2));

    #[test]
    fn requests_are_capped_per_workspace() {
        let admission = Admission::default();
        let held: Vec<_> = (0..MESSAGES).map(|_| admission.enter(ONE, Class::Message).unwrap()).collect();
        assert_eq!(admission.enter(ONE, Class::Message).err(), Some(Refusal::Requests(MESSAGES)));
        assert!(admission.enter(ONE, Class::Other).is_ok(), "messages do not count against other requests");
        assert!(admission.enter(OTHER, Class::Message).is_ok());
        drop(held);
        assert!(admission.lock().by_owner.is_empty(), "finished requests leave no entry");
        assert_eq!(admission.lock().messages, 0);
    }

    #[test]
    fn bytes_are_capped_per_workspace_and_in_total() {
        let admission = Admission::default();
        let own = admission.reserve(ONE, BYTES).unwrap();
        assert_eq!(admission.reserve(ONE, 1).err(), Some(Refusal::Bytes));
        let rest: Vec<_> =
            (3..).map_while(|number| admission.reserve(Some(workspace(number)), BYTES / 2).ok()).collect();
        assert_eq!(rest.len(), (BYTES_IN_ALL - BYTES) / (BYTES / 2));
        assert_eq!(admission.reserve(OTHER, BYTES / 2).err(), Some(Refusal::BytesInAll));
        drop((own, rest));
        assert!(admission.lock().by_owner.is_empty());
        assert_eq!(admission.lock().bytes, 0);
    }

    #[test]
    fn byte_reservation_is_released_with_the_last_slice() {
        let admission = Admission::default();
        let reserved = admission.reserve(ONE, 1 << 20).unwrap();
        let bytes = Read { bytes: Bytes::from(vec![b'x'; 1 << 20]), reserved }.into_bytes();
        let part = bytes.slice(..10);
        drop(bytes);
        assert_eq!(admission.lock().bytes, 1 << 20);
        drop(part);
        assert_eq!(admission.lock().bytes, 0);
    }
}
