//! An agent as the target of a request.

use std::net::SocketAddr;

use super::agent_url::Checked;
use crate::domain::token::Proof;

/// An agent: its address, and the proofs by which it can verify that a request comes from ostler.
///
/// Both belong to the same workspace, so that a proof is never sent to another workspace.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// Where to connect.
    pub(crate) location: Location,
    /// One proof for each token that the agent may have.
    pub(crate) proofs: Vec<Proof>,
}

/// Address of an agent.
#[derive(Clone, Debug)]
pub(crate) enum Location {
    /// A container's port on this machine.
    Local(SocketAddr),
    /// An external agent: the url with the address that passed the check.
    Checked(Checked),
}
