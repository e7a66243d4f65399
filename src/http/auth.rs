//! Who asks (wire protocol, §3): an admin, a workspace, or nobody.
//!
//! There is no bootstrap in which a missing token means yes. The local socket is the admin's, because its mode and the
//! peer's uid have been checked; on TCP everything but health needs a token. A token is looked up in memory, which is
//! what the last commit made it: a miss is certain, so a store that cannot answer is never taken for a refusal.

use axum::{
    extract::{FromRequestParts, Request, State},
    http::{Extensions, HeaderMap, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{
    Api,
    error::{HttpError, HttpResult},
    listen::{CameOver, Owner},
};
use crate::{
    domain::{ids::WorkspaceId, workspace::Workspace},
    store::{Bearer, Holder, Scope},
};

/// The header in which a workspace says who it is.
pub(super) const WORKSPACE_HEADER: &str = "x-workspace-id";

/// Where a request came in: put there by the local socket, after it has looked at the peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct OwnSocket;

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(super) enum Principal {
    /// Whoever may do everything.
    Admin,
    /// A workspace, by this token.
    Workspace(Holder),
}

/// What a request presents.
pub(super) enum Presented<'a> {
    /// The local socket, and no token.
    OwnSocket,
    /// A token.
    Token(&'a str),
    /// Nothing.
    Nothing,
}

pub(super) fn presented(headers: &HeaderMap, own_socket: bool) -> Presented<'_> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let token = match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok().and_then(bearer_token),
        // Two headers could name two principals.
        _ => None,
    };
    match token {
        Some(token) => Presented::Token(token),
        None if own_socket => Presented::OwnSocket,
        None => Presented::Nothing,
    }
}

/// The token of a `Bearer` credential: the scheme in any case, one or more spaces before the token (RFC 9110, section
/// 11.4). Another scheme, or no token, is no credential.
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

/// A token that was verified on the way to the handler.
#[derive(Clone, Copy)]
pub(super) struct Verified(pub(super) Bearer);

/// The owner of a token, if it is valid. The connection that it came over is counted under that owner from now on.
pub(super) fn bearer(api: &Api, token: &str, extensions: &Extensions) -> Option<Bearer> {
    if let Some(Verified(bearer)) = extensions.get() {
        return Some(*bearer);
    }
    let bearer = api.0.ops.bearer(token);
    if let (Some(bearer), Some(came)) = (&bearer, extensions.get::<CameOver>()) {
        came.belongs_to(match bearer {
            Bearer::Admin => Owner::Admin,
            Bearer::Workspace(holder) => Owner::Workspace(holder.workspace),
        });
    }
    bearer
}

impl Principal {
    fn of(api: &Api, headers: &HeaderMap, extensions: &Extensions) -> HttpResult<Self> {
        match presented(headers, extensions.get::<OwnSocket>().is_some()) {
            Presented::OwnSocket => Ok(Self::Admin),
            Presented::Nothing => Err(missing()),
            Presented::Token(token) => match bearer(api, token, extensions) {
                Some(Bearer::Admin) => Ok(Self::Admin),
                Some(Bearer::Workspace(holder)) => Ok(Self::Workspace(holder)),
                None => Err(invalid()),
            },
        }
    }

    /// Speaks for this workspace, or not. Another workspace's token is no token here.
    pub(super) fn speak_for(self, id: WorkspaceId) -> HttpResult<()> {
        match self {
            Self::Admin => Ok(()),
            Self::Workspace(holder) if holder.workspace == id => Ok(()),
            Self::Workspace(_) => Err(invalid()),
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
        if let Self::Workspace(holder) = principal {
            api.count(holder)?;
        }
        Ok(principal)
    }
}

/// Whether a request comes from an admin, for routes that also answer strangers.
pub(super) fn is_admin(api: &Api, headers: &HeaderMap, extensions: &Extensions) -> bool {
    Principal::of(api, headers, extensions).is_ok_and(Principal::is_admin)
}

/// Lets nobody but an admin through, for all routes below it.
pub(super) async fn only_admins(State(api): State<Api>, request: Request, next: Next) -> Response {
    match Principal::of(&api, request.headers(), request.extensions()) {
        Ok(Principal::Admin) => next.run(request).await,
        Ok(Principal::Workspace(_)) => HttpError::forbidden("only an admin may do this").into_response(),
        Err(error) => error.into_response(),
    }
}

impl Api {
    /// Counts a workspace's request, and writes its token's use down now and then.
    fn count(&self, holder: Holder) -> HttpResult<()> {
        self.0.buckets.requests.check(holder.workspace).map_err(HttpError::too_many)?;
        let ops = self.0.ops.clone();
        if ops.is_use_due(&holder) {
            self.0.spawn.spawn(Box::pin(async move { ops.note_token_use(holder).await }));
        }
        Ok(())
    }

    /// The workspace that a path speaks of: for an admin by whatever names it, for a workspace by its id and nothing
    /// else.
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

/// A path's id, or the same 404 as one that nobody has.
pub(super) struct PathId(pub(super) WorkspaceId);

impl FromRequestParts<Api> for PathId {
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> HttpResult<Self> {
        let path = axum::extract::Path::<String>::from_request_parts(parts, api).await;
        let id = path.ok().and_then(|axum::extract::Path(text)| WorkspaceId::from_client(&text).ok());
        id.map(Self).ok_or_else(|| HttpError::not_found("workspace not found"))
    }
}

/// The workspace of a route that is a workspace's own: it speaks for itself, or an admin for it.
///
/// To everybody else an unknown workspace looks like one that is not theirs: the token is no token here.
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
            Principal::Workspace(holder) => match WorkspaceId::from_client(&reference) {
                Ok(id) if holder.workspace == id => Ok(Self { id, by_admin: false }),
                _ => Err(invalid()),
            },
        }
    }
}

/// The workspace that a header says is asking; the token has to be its own.
pub(super) fn caller(headers: &HeaderMap) -> HttpResult<WorkspaceId> {
    let missing = || HttpError::invalid("X-Workspace-ID header is required");
    let text = headers.get(WORKSPACE_HEADER).and_then(|value| value.to_str().ok()).ok_or_else(missing)?;
    WorkspaceId::from_client(text.trim()).map_err(|_| missing())
}

/// The url under which the asker reaches ostler, which is where it will reach others through it.
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
