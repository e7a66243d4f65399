//! A report of an agent: its token, its body, and the workspace that it names.

use axum::{
    body::{Body, Bytes},
    extract::Request,
    http::{HeaderValue, header, request::Parts},
    response::Response,
};

use super::body::{BODY_LIMIT, body_is_invalid};
use crate::{
    domain::{
        bounds::{REPORT_DISCARDED_MAX_BYTES, REPORT_MAX_BYTES},
        ids::WorkspaceId,
    },
    http::{
        Api,
        auth::{self, OwnSocket, Presented, presented},
        body::read_start,
        error::{HttpError, HttpResult},
    },
    store::{ReportResult, StoreError, TokenOwner, TokenSubject},
};

/// A report of an agent, with the owner of the token that it presented, if the token is valid.
pub(super) struct AgentReport {
    token_owner: Option<TokenOwner>,
    presented: String,
    /// The first [`REPORT_MAX_BYTES`] of the body.
    pub(super) body: Bytes,
    /// Whether the body was longer.
    pub(super) cut: bool,
    /// The route's name, for the event about refused requests.
    request: &'static str,
}

/// Returns the token of a request and its owner. The owner is `None` if the token is not valid.
///
/// # Errors
/// 401 if there is no token, or if the caller is an admin: an admin is not an agent and sends no heartbeats.
fn report_owner<'a>(api: &Api, parts: &'a Parts) -> HttpResult<(Option<TokenOwner>, &'a str)> {
    let own_socket = parts.extensions.get::<OwnSocket>().is_some();
    let Presented::Token(token) = presented(&parts.headers, own_socket) else { return Err(auth::missing()) };
    match auth::token_subject(api, token, &parts.extensions) {
        Some(TokenSubject::Workspace(token_owner)) => Ok((Some(token_owner), token)),
        Some(TokenSubject::Admin) => Err(auth::invalid()),
        None => Ok((None, token)),
    }
}

/// Reads the token and the body of a report. An invalid token is refused later, in `AgentReport::verified_owner`: it
/// may belong to a removed workspace, which is reported as 410 once the body has named that workspace.
pub(super) async fn report(api: &Api, request: Request, route: &'static str) -> HttpResult<AgentReport> {
    let (parts, body) = request.into_parts();
    let (token_owner, token) = report_owner(api, &parts)?;
    let clock = &*api.0.clock;
    let (body, cut) =
        read_start(body, REPORT_MAX_BYTES, REPORT_DISCARDED_MAX_BYTES, BODY_LIMIT, clock).await?;
    Ok(AgentReport { token_owner, presented: token.to_owned(), body, cut, request: route })
}

impl AgentReport {
    /// Returns the error for an unusable body. Without a valid token, it is the error for an invalid token and does not
    /// mention the body.
    pub(super) fn refused(&self, api: &Api) -> HttpError {
        match self.token_owner {
            Some(token_owner) => {
                api.note_refused(token_owner.workspace, self.request, "invalid request body");
                body_is_invalid()
            }
            None => auth::invalid(),
        }
    }

    /// Returns the owner of the token if it is the workspace that the body names.
    ///
    /// # Errors
    /// 410 if the token belonged to that workspace and the workspace was removed, otherwise 401.
    pub(super) async fn verified_owner(&self, api: &Api, named: &Named) -> HttpResult<TokenOwner> {
        let id = match named {
            Named::InBody(id) => WorkspaceId::from_client(id).ok(),
            Named::ByToken => self.token_owner.map(|token_owner| token_owner.workspace),
        };
        match self.token_owner {
            Some(token_owner) if Some(token_owner.workspace) == id => Ok(token_owner),
            Some(token_owner) => {
                api.note_refused(token_owner.workspace, self.request, "the body names another workspace");
                Err(auth::invalid())
            }
            None => {
                let Some(dead) = api.0.ops.invalid_token(&self.presented).await? else {
                    return Err(auth::invalid());
                };
                if !dead.removed {
                    api.note_refused(dead.workspace, self.request, "the token was revoked or has expired");
                    return Err(auth::invalid());
                }
                Err(if id == Some(dead.workspace) { HttpError::gone() } else { auth::invalid() })
            }
        }
    }
}

/// How a report names its workspace.
pub(super) enum Named {
    /// By this id in the body.
    InBody(String),
    /// By its token alone: the body was cut off before the workspace's id.
    ByToken,
}

pub(super) fn answered(result: ReportResult) -> HttpResult<()> {
    match result {
        ReportResult::Noted => Ok(()),
        ReportResult::Unauthorized => Err(auth::invalid()),
        ReportResult::Gone => Err(HttpError::gone()),
    }
}

/// Returns a function that converts the error of a failed write. The function also resets the liveness windows, because
/// a heartbeat that could not be stored must not count as missed.
pub(super) fn reset_liveness(api: &Api) -> impl FnOnce(StoreError) -> HttpError + '_ {
    |error| {
        api.0.listening.interrupted(api.0.clock.awake());
        error.into()
    }
}

pub(super) fn json(text: &'static str) -> Response {
    let mut response = Response::new(Body::from(text));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
