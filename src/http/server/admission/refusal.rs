//! Why a request is not admitted.

use std::fmt;

use super::limits::BYTES;

/// Why a request is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The workspace's requests of one class in flight have reached this limit.
    Requests(usize),
    /// The messages of all workspaces in flight have reached `MESSAGES_IN_ALL`.
    RequestsInAll,
    /// The workspace's bytes in memory would exceed `BYTES`.
    Bytes,
    /// The bytes of all workspaces in memory would exceed `BYTES_IN_ALL`.
    BytesInAll,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Requests(most) => {
                write!(
                    f,
                    "this workspace already has {most} requests of this kind in flight, the maximum; retry later"
                )
            }
            Self::RequestsInAll => f.write_str("the daemon has too many messages in flight; retry later"),
            Self::Bytes => {
                write!(
                    f,
                    "messages and responses in flight of this workspace would exceed {} MiB; retry later",
                    BYTES >> 20
                )
            }
            Self::BytesInAll => f.write_str("the daemon has too many large messages in flight; retry later"),
        }
    }
}
