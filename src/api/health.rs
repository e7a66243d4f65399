//! The daemon's readiness and identity.

use serde::{Deserialize, Serialize};

/// Response to `GET /ready`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// Always `ready`.
    pub status: String,
    /// Whether the registry was lost or restored, so that unknown containers are kept until an operator decides about
    /// them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub recovering: bool,
}

/// Response to `GET /health`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Always `ok`.
    pub status: String,
    /// Identifies this registry: constant for the lifetime of a data directory, and not secret.
    pub registry: String,
    /// Version of the daemon; only for admins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Process id of the daemon; only for admins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
}
