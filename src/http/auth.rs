//! Authentication (wire protocol, §3): a caller is an admin, a workspace, or unauthenticated.
//!
//! There is no unauthenticated bootstrap mode. The local socket counts as an admin, because its mode and the peer's uid
//! were checked; on TCP, every route except `/health` and `/ready` needs a token. Tokens are looked up in memory, which
//! always has the state of the last commit. So a token that is not found is certainly invalid, and an unavailable store
//! never makes a valid token look invalid.

use axum::{
    extract::{FromRequestParts, Request, State},
    http::{Extensions, HeaderMap, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{
    Api,
    error::{HttpError, HttpResult},
    server::{Carrier, Owner},
};
use crate::{
    domain::{ids::WorkspaceId, operation::Requester, workspace::Workspace},
    store::{Scope, TokenOwner, TokenSubject},
};

/// The header in which a workspace sends its own id.
pub(super) const WORKSPACE_HEADER: &str = "x-workspace-id";

/// Request extension that the local socket sets after it has checked the peer's uid.
#[derive(Clone, Copy, Debug)]
pub(super) struct OwnSocket;

/// The authenticated caller.
#[derive(Clone, Copy, Debug)]
pub(super) enum Principal {
    /// Allowed to do everything.
    Admin,
    /// A workspace, with the token that it used.
    Workspace(TokenOwner),
}

/// The credentials that a request presents.
pub(super) enum Presented<'a> {
    /// The request arrived on the local socket without a token.
    OwnSocket,
    /// A bearer token, not verified yet.
    Token(&'a str),
    /// No usable credentials.
    Nothing,
}

pub(super) fn presented(headers: &HeaderMap, own_socket: bool) -> Presented<'_> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let token = match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok().and_then(bearer_token),
        // Two headers could name two principals, so both are ignored.
        _ => None,
    };
    match token {
        Some(token) => Presented::Token(token),
        None if own_socket => Presented::OwnSocket,
        None => Presented::Nothing,
    }
}

/// The token of a `Bearer` credential (RFC 9110, section 11.4): the scheme in any case, then one or more spaces, then
/// the token. `None` for another scheme or an empty token.
fn bearer_token(value: &str) -> Option<&str> {
    let (scheme, token) = value.trim_matches([' ', '\t']).split_once(' ')?;
    let token = token.trim_start_matches([' ', '\t']);
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

pub(super) fn missing() -> HttpError {
    HttpError::unauthorized("missing workspace auth token")
}

pub(super) fn invalid() -> HttpError {
    HttpError::unauthorized("invalid workspace auth token")
}

/// Request extension: the principal of a token that admission control has verified already.
#[derive(Clone, Copy)]
pub(super) struct Verified(pub(super) TokenSubject);

/// Returns the principal of a token; `None` if the token is not valid. From now on, the connection on which the token
/// arrived is counted under that principal.
pub(super) fn token_subject(api: &Api, token: &str, extensions: &Extensions) -> Option<TokenSubject> {
    if let Some(Verified(token_subject)) = extensions.get() {
        return Some(*token_subject);
    }
    let token_subject = api.0.ops.token_subject(token);
    if let (Some(token_subject), Some(carrier)) = (&token_subject, extensions.get::<Carrier>()) {
        carrier.belongs_to(match token_subject {
            TokenSubject::Admin => Owner::Admin,
            TokenSubject::Workspace(token_owner) => Owner::Workspace(token_owner.workspace),
        });
    }
    token_subject
}

impl Principal {
    fn of(api: &Api, headers: &HeaderMap, extensions: &Extensions) -> HttpResult<Self> {
        match presented(headers, extensions.get::<OwnSocket>().is_some()) {
            Presented::OwnSocket => Ok(Self::Admin),
            Presented::Nothing => Err(missing()),
            Presented::Token(token) => match token_subject(api, token, extensions) {
                Some(TokenSubject::Admin) => Ok(Self::Admin),
                Some(TokenSubject::Workspace(token_owner)) => Ok(Self::Workspace(token_owner)),
                None => Err(invalid()),
            },
        }
    }

    /// Checks that the caller is an admin or this workspace. Another workspace's token counts as invalid here.
    pub(super) fn require_workspace(self, id: WorkspaceId) -> HttpResult<()> {
        match self {
            Self::Admin => Ok(()),
            Self::Workspace(token_owner) if token_owner.workspace == id => Ok(()),
            Self::Workspace(_) => Err(invalid()),
        }
    }

    /// On whose order an operation of this caller is carried out.
    pub(super) fn requester(self) -> Requester {
        match self {
            Self::Admin => Requester::Operator,
            Self::Workspace(token_owner) => Requester::Agent(token_owner.workspace),
        }
    }

    pub(super) fn is_admin(self) -> bool {
        matches!(self, Self::Admin)
    }
}

impl FromRequestParts<Api> for Principal {
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> HttpResult<Self> {
        let principal = Self::of(api, &parts.headers, &parts.extensions)?;
        if let Self::Workspace(token_owner) = principal {
            api.count(token_owner)?;
        }
        Ok(principal)
    }
}

/// Whether a request comes from an admin, for routes that also serve other callers.
pub(super) fn is_admin(api: &Api, headers: &HeaderMap, extensions: &Extensions) -> bool {
    Principal::of(api, headers, extensions).is_ok_and(Principal::is_admin)
}

/// Middleware that refuses every caller except an admin.
pub(super) async fn only_admins(State(api): State<Api>, request: Request, next: Next) -> Response {
    match Principal::of(&api, request.headers(), request.extensions()) {
        Ok(Principal::Admin) => next.run(request).await,
        Ok(Principal::Workspace(_)) => HttpError::forbidden("only an admin may do this").into_response(),
        Err(error) => error.into_response(),
    }
}

impl Api {
    /// Counts a workspace's request against its rate limit, and stores the token's last use from time to time.
    fn count(&self, token_owner: TokenOwner) -> HttpResult<()> {
        self.0.buckets.requests.check(token_owner.workspace).map_err(HttpError::too_many)?;
        let ops = self.0.ops.clone();
        if ops.is_use_due(&token_owner) {
            self.0.spawn.spawn(Box::pin(async move { ops.note_token_use(token_owner).await }));
        }
        Ok(())
    }

    /// Returns the workspace that a path names. In an admin's request the path may contain a name, an id or a unique id
    /// prefix; in a workspace's request, only a complete id.
    pub(super) async fn addressed(
        &self,
        principal: Principal,
        reference: &str,
        scope: Scope,
    ) -> HttpResult<Workspace> {
        if principal.is_admin() {
            return self.resolve(reference, scope).await;
        }
        let id =
            WorkspaceId::from_client(reference).map_err(|_| HttpError::not_found("workspace not found"))?;
        let row = self.0.store.workspace(id).await?;
        row.ok_or_else(|| HttpError::not_found("workspace not found"))
    }
}

/// The workspace id in a path. A malformed id gets the same 404 as an unknown one.
pub(super) struct PathId(pub(super) WorkspaceId);

impl FromRequestParts<Api> for PathId {
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> HttpResult<Self> {
        let path = axum::extract::Path::<String>::from_request_parts(parts, api).await;
        let id = path.ok().and_then(|axum::extract::Path(text)| WorkspaceId::from_client(&text).ok());
        id.map(Self).ok_or_else(|| HttpError::not_found("workspace not found"))
    }
}

/// The workspace of a route that only the workspace itself or an admin may use.
///
/// If another workspace requests such a route, its token counts as invalid, whether or not the workspace in the path
/// exists. So that workspace cannot find out which ids exist.
pub(super) struct Own {
    pub(super) id: WorkspaceId,
    pub(super) by_admin: bool,
}

impl FromRequestParts<Api> for Own {
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> HttpResult<Self> {
        let principal = Principal::from_request_parts(parts, api).await?;
        let path = axum::extract::Path::<Vec<(String, String)>>::from_request_parts(parts, api).await;
        let reference = path.ok().and_then(|axum::extract::Path(path)| path.into_iter().next());
        let (_, reference) = reference.ok_or_else(|| HttpError::not_found("workspace not found"))?;
        match principal {
            Principal::Admin => {
                Ok(Self { id: api.resolve(&reference, Scope::Live).await?.id, by_admin: true })
            }
            Principal::Workspace(token_owner) => match WorkspaceId::from_client(&reference) {
                Ok(id) if token_owner.workspace == id => Ok(Self { id, by_admin: false }),
                _ => Err(invalid()),
            },
        }
    }
}

/// The workspace id in the request's header. The caller must check that the token belongs to it.
pub(super) fn caller(headers: &HeaderMap) -> HttpResult<WorkspaceId> {
    let missing = || HttpError::invalid("X-Workspace-ID header is required");
    let text = headers.get(WORKSPACE_HEADER).and_then(|value| value.to_str().ok()).ok_or_else(missing)?;
    WorkspaceId::from_client(text.trim()).map_err(|_| missing())
}

/// The url under which the client reaches ostler, and through it other agents.
///
/// This is the configured url if there is one. Otherwise it is `http://` followed by the `Host` header. If that header
/// is missing or contains characters that a host and port cannot contain, the result is the default url, with the
/// loopback address.
pub(super) fn platform_url(api: &Api, headers: &HeaderMap) -> String {
    let settings = api.0.ops.settings();
    if let Some(url) = &settings.platform_url {
        return url.trim_end_matches('/').to_owned();
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']' | '_');
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    match host.filter(|host| !host.is_empty() && host.chars().all(plain)) {
        Some(host) => format!("http://{host}"),
        None => settings.platform_url(),
    }
}
