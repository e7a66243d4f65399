//! Lists, issues and revokes tokens. A list shows only their prefixes; the complete token is returned only when it is
//! issued. A token is revoked by the id of its row.

use std::time::Duration;

use axum::{Json, extract::State, http::StatusCode};
use serde_json::{Value, json};

use super::{
    super::{
        Api,
        error::{HttpError, HttpResult},
        view,
    },
    Body, Path,
};
use crate::{
    api::token::{AdminTokenView, IssueAdminToken, IssueToken, IssuedAdminToken, IssuedToken, TokenList},
    domain::{ids::TokenId, token::TokenRow},
    store::{AdminToken, Scope},
};

pub(in super::super) async fn list(
    State(api): State<Api>,
    Path(reference): Path<String>,
) -> HttpResult<Json<TokenList>> {
    let row = api.resolve(&reference, Scope::Live).await?;
    let tokens: Vec<_> = api.0.ops.tokens(row.id).await?.iter().map(view::token).collect();
    Ok(Json(TokenList { count: tokens.len(), tokens }))
}

pub(in super::super) async fn issue(
    State(api): State<Api>,
    Path(reference): Path<String>,
    Body(body): Body<IssueToken>,
) -> HttpResult<(StatusCode, Json<IssuedToken>)> {
    let row = api.resolve(&reference, Scope::Live).await?;
    if body.expires_in_seconds == Some(0) {
        return Err(HttpError::invalid("expires_in_seconds must be greater than 0"));
    }
    let (ops, valid_for) = (api.0.ops.clone(), body.expires_in_seconds.map(Duration::from_secs));
    let token = api.detached(async move { ops.issue_token(row.id, valid_for).await }).await?;
    let issued = IssuedToken { auth_token: token.expose().to_owned(), workspace_id: row.id.to_string() };
    Ok((StatusCode::CREATED, Json(issued)))
}

pub(in super::super) async fn revoke(
    State(api): State<Api>,
    Path((reference, token)): Path<(String, String)>,
) -> HttpResult<Json<Value>> {
    let row = api.resolve(&reference, Scope::Live).await?;
    let live = api.0.ops.tokens(row.id).await?;
    let id = which(&token, &live)?;
    let ops = api.0.ops.clone();
    api.detached(async move { ops.revoke_token(row.id, id).await }).await?;
    Ok(Json(json!({ "status": "revoked" })))
}

pub(in super::super) async fn list_admin(State(api): State<Api>) -> HttpResult<Json<Vec<AdminTokenView>>> {
    let tokens = api.0.store.admin_tokens().await?;
    let view = |token: AdminToken| AdminTokenView {
        id: token.id.to_string(),
        name: token.name,
        prefix: token.prefix,
        created_at: token.created_at.to_string(),
        expires_at: token.expires_at.map(|at| at.to_string()),
    };
    Ok(Json(tokens.into_iter().map(view).collect()))
}

pub(in super::super) async fn issue_admin(
    State(api): State<Api>,
    Body(body): Body<IssueAdminToken>,
) -> HttpResult<(StatusCode, Json<IssuedAdminToken>)> {
    if body.expires_in_seconds == Some(0) {
        return Err(HttpError::invalid("expires_in_seconds must be greater than 0"));
    }
    let (ops, name) = (api.0.ops.clone(), body.name.clone());
    let valid_for = body.expires_in_seconds.map(Duration::from_secs);
    let token = api.detached(async move { ops.issue_admin_token(name, valid_for).await }).await?;
    let issued = IssuedAdminToken { auth_token: token.expose().to_owned(), name: body.name };
    Ok((StatusCode::CREATED, Json(issued)))
}

pub(in super::super) async fn revoke_admin(
    State(api): State<Api>,
    Path(token): Path<String>,
) -> HttpResult<Json<Value>> {
    let tokens = api.0.store.admin_tokens().await?;
    let meant = |one: &&AdminToken| {
        one.prefix == token
            || (token.len() >= 4 && one.id.to_string().starts_with(&token.to_ascii_lowercase()))
    };
    let mut found = tokens.iter().filter(meant);
    let id = match (found.next(), found.next()) {
        (Some(one), None) => one.id,
        (Some(_), Some(_)) => {
            return Err(HttpError::conflict(format!(
                "`{token}` is ambiguous: use a longer prefix of the id"
            )));
        }
        (None, _) => {
            let message =
                format!("no admin token matches `{token}`. List them with `ostler token ls --admin`");
            return Err(HttpError::not_found(message));
        }
    };
    let ops = api.0.ops.clone();
    api.detached(async move { ops.revoke_admin_token(id).await }).await?;
    Ok(Json(json!({ "status": "revoked" })))
}

/// Finds a token by the id of its row, a unique prefix of that id, or the prefix of the token that lists show.
fn which(reference: &str, live: &[TokenRow]) -> HttpResult<TokenId> {
    let meant = |row: &&TokenRow| {
        row.prefix == reference
            || (reference.len() >= 4 && row.id.to_string().starts_with(&reference.to_ascii_lowercase()))
    };
    let mut found = live.iter().filter(meant);
    match (found.next(), found.next()) {
        (Some(row), None) => Ok(row.id),
        (Some(_), Some(_)) => {
            Err(HttpError::conflict(format!("`{reference}` is ambiguous: use a longer prefix of the id")))
        }
        (None, _) => Err(HttpError::not_found(format!(
            "no valid token of this workspace matches `{reference}`. List them with `ostler token ls`"
        ))),
    }
}
