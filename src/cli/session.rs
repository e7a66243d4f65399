//! The dependencies of a command.

use super::{client::Client, host::Host, output::Output};

/// The dependencies of a command.
pub(super) struct Session<'a> {
    pub(super) client: Client,
    pub(super) out: Output,
    pub(super) host: &'a dyn Host,
}
