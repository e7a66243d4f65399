//! The owner under which a connection is counted.

use std::net::IpAddr;

use crate::domain::ids::WorkspaceId;

/// The owner under which a connection is counted.
///
/// An address does not identify a workspace: with rootless Podman, all containers of a machine share one address. A
/// connection is counted under its peer's address only until it has carried a valid token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::http) enum Owner {
    /// No valid token so far.
    Address(IpAddr),
    /// The workspace whose token was verified last.
    Workspace(WorkspaceId),
    /// An admin token was verified last.
    Admin,
}
