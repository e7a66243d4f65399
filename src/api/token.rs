//! The tokens of workspaces and of admins.

use serde::{Deserialize, Serialize};

/// A token in `GET /workspaces/:id/tokens`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenView {
    /// Id of the row; used to revoke the token.
    pub id: String,
    /// The first characters of the token.
    pub prefix: String,
    /// `instance`: belongs to the current container of the workspace. `api`: issued by an operator, or for an external
    /// agent.
    pub kind: String,
    /// Time of issue, RFC 3339.
    pub created_at: String,
    /// Time of the last use, RFC 3339.
    pub last_used_at: Option<String>,
    /// Time at which the token expires, RFC 3339; null if it does not expire.
    pub expires_at: Option<String>,
}

/// Response to `GET /workspaces/:id/tokens`: the valid tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenList {
    /// The valid tokens of the workspace.
    pub tokens: Vec<TokenView>,
    /// Number of `tokens`.
    pub count: usize,
}

/// `POST /workspaces/:id/tokens`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IssueToken {
    /// Lifetime in seconds; absent: unlimited.
    pub expires_in_seconds: Option<u64>,
}

/// Response to `POST /workspaces/:id/tokens`. The token is shown only here.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuedToken {
    /// The token in plain text.
    pub auth_token: String,
    /// Workspace that owns the token.
    pub workspace_id: String,
}

impl std::fmt::Debug for IssuedToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "IssuedToken for {} [redacted]", self.workspace_id)
    }
}

/// A token in `GET /admin/tokens`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminTokenView {
    /// Id of the row; used to revoke the token.
    pub id: String,
    /// The purpose of the token.
    pub name: String,
    /// The first characters of the token.
    pub prefix: String,
    /// Time of issue, RFC 3339.
    pub created_at: String,
    /// Time at which the token expires, RFC 3339; null if it does not expire.
    pub expires_at: Option<String>,
}

/// `POST /admin/tokens`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IssueAdminToken {
    /// The purpose of the token.
    pub name: String,
    /// Lifetime in seconds; absent: unlimited.
    pub expires_in_seconds: Option<u64>,
}

/// Response to `POST /admin/tokens`. The token is shown only here.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuedAdminToken {
    /// The token in plain text.
    pub auth_token: String,
    /// The purpose of the token.
    pub name: String,
}

impl std::fmt::Debug for IssuedAdminToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "IssuedAdminToken `{}` [redacted]", self.name)
    }
}
