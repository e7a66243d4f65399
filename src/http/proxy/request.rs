//! A message to forward.

use axum::{body::Bytes, http::HeaderMap};

/// A message to forward.
#[derive(Clone, Debug)]
pub(crate) struct ForwardRequest {
    /// Sent unchanged.
    pub(crate) body: Bytes,
    /// The caller's request headers; only a few of them are forwarded.
    pub(crate) headers: HeaderMap,
    /// Id of the sending workspace, or `admin`.
    pub(crate) caller: String,
}
