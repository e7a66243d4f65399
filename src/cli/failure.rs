//! Failures of commands. `main` reports a failure once, with the next step and an exit code that scripts can check.

/// Exit codes of failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// The operation was attempted and failed.
    Failed = 1,
    /// Wrong usage, input or configuration.
    Usage = 2,
    /// The object that the command names does not exist.
    NotFound = 3,
    /// Not possible in the current state.
    Conflict = 4,
    /// The daemon does not answer.
    Unreachable = 5,
}

/// Why a command ended early.
#[derive(Debug)]
pub enum Failure {
    /// A failure to report to the user.
    Reported {
        /// The exit code.
        exit: Exit,
        /// What failed and why.
        error: anyhow::Error,
        /// What to do next, if the error itself does not say so.
        next: Option<String>,
    },
    /// The reader closed standard output, as `head` does. This is not reported, and the exit code is 0.
    StdoutClosed,
    /// The user pressed Ctrl-C while the command waited. The daemon continues with the operation; the exit code is 130.
    Interrupted,
}

impl Failure {
    /// A failure with this exit code and message.
    pub fn new(exit: Exit, error: impl Into<String>) -> Self {
        Self::from_error(exit, anyhow::Error::msg(error.into()))
    }

    /// A failure with this exit code, an error and its causes.
    #[must_use]
    pub fn from_error(exit: Exit, error: anyhow::Error) -> Self {
        Self::Reported { exit, error, next: None }
    }

    /// Adds what to do next.
    #[must_use]
    pub fn next(self, advice: impl Into<String>) -> Self {
        match self {
            Self::Reported { exit, error, next: _ } => {
                Self::Reported { exit, error, next: Some(advice.into()) }
            }
            quiet @ (Self::StdoutClosed | Self::Interrupted) => quiet,
        }
    }

    /// Whether the daemon could not be reached.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Reported { exit: Exit::Unreachable, .. })
    }
}

/// A failure with exit code 1, and the error with its causes.
impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::from_error(Exit::Failed, error)
    }
}
