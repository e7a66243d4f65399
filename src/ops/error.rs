//! Why an order was not carried out.

use crate::{
    domain::{naming::WorkspaceName, runtime::PLAIN},
    engine::{EngineError, trusted::Untrusted},
    store::StoreError,
};

/// Why an order was not carried out.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OpError {
    /// No object has that name or id.
    #[error("{0}")]
    NotFound(String),
    /// The request is invalid.
    #[error("{0}")]
    Invalid(String),
    /// The loaded configuration has no such runtime.
    #[error(
        "runtime `{name}` is not configured; configured are {}. Choose one of these, or add `[runtimes.{name}]` to \
         the configuration and run `ostler reload`. For an image without an agent, use `{PLAIN}`", known.join(", ")
    )]
    NoRuntime {
        /// The requested name.
        name: String,
        /// The configured runtimes.
        known: Vec<String>,
    },
    /// The current state does not allow the order.
    #[error("{0}")]
    Conflict(String),
    /// The new parent of a workspace is missing, or is the workspace itself or below it.
    #[error("{0}")]
    Unprocessable(String),
    /// The workspace has the maximum number of tokens.
    #[error("{0}")]
    TooManyTokens(String),
    /// The workspace has active tasks.
    #[error("workspace has active tasks")]
    Busy {
        /// Number of active tasks.
        active_tasks: u32,
    },
    /// Requests to the workspace are in flight.
    #[error(
        "workspace is in use: messages or commands in progress: {open_requests}. Wait until they have ended, or \
         interrupt them: `ostler hibernate {name} --force`"
    )]
    InUse {
        /// The workspace.
        name: WorkspaceName,
        /// Number of messages and commands in progress.
        open_requests: u32,
    },
    /// The name is taken.
    #[error(
        "a workspace named `{0}` exists already. Choose another name, or first remove the existing one with `ostler rm`"
    )]
    NameTaken(WorkspaceName),
    /// The order cannot succeed until an operator changes something, such as the image, the port or a volume.
    #[error("{0}")]
    Impossible(String),
    /// The engine failed, or gave no answer.
    #[error("the engine call failed: {0}")]
    Engine(#[from] EngineError),
    /// The engine is not the one that belongs to this registry.
    #[error(transparent)]
    Untrusted(Untrusted),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The mirror file beside the database could not be written.
    #[error("cannot write the instance's mirror file: {0}. Make the data directory writable")]
    Mirror(String),
    /// The order was abandoned because this process is stopping.
    #[error("ostler is stopping; unfinished operations continue at its next start")]
    Stopping,
}

impl From<Untrusted> for OpError {
    fn from(untrusted: Untrusted) -> Self {
        match untrusted {
            Untrusted::NoAnswer(error) => Self::Engine(error),
            other @ (Untrusted::SentinelMissing(_) | Untrusted::RegistryFailed(_)) => Self::Untrusted(other),
        }
    }
}

/// Result of a use case.
pub type OpResult<T> = Result<T, OpError>;
