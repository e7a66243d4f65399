//! How a command fails: once, at the edge, with a code a script can tell apart and the next step.

use std::io;

use super::output;

/// What the process ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It was tried and did not work.
    Failed = 1,
    /// Asked for wrongly: usage, input or configuration.
    Usage = 2,
    /// Nothing has this name.
    NotFound = 3,
    /// It cannot be done as things are.
    Conflict = 4,
    /// The daemon does not answer.
    Unreachable = 5,
}

/// Why a command failed.
#[derive(Debug)]
pub enum Failure {
    /// To be told.
    Told {
        /// The class.
        exit: Exit,
        /// What happened and why.
        error: anyhow::Error,
        /// What to do next, where the error does not say so itself.
        next: Option<String>,
    },
    /// Whoever read standard output has had enough, as `head` does. Nothing to tell, and no failure.
    StdoutClosed,
    /// Ctrl-C while waiting; what was ordered goes on.
    Interrupted,
}

impl Failure {
    /// A failure of this class.
    pub fn new(exit: Exit, error: impl Into<String>) -> Self {
        Self::from_error(exit, anyhow::Error::msg(error.into()))
    }

    /// A failure of this class with its causes.
    #[must_use]
    pub fn from_error(exit: Exit, error: anyhow::Error) -> Self {
        Self::Told { exit, error, next: None }
    }

    /// Adds what to do next.
    #[must_use]
    pub fn next(self, advice: impl Into<String>) -> Self {
        match self {
            Self::Told { exit, error, next: _ } => Self::Told { exit, error, next: Some(advice.into()) },
            quiet @ (Self::StdoutClosed | Self::Interrupted) => quiet,
        }
    }

    /// Whether the daemon was not there.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Told { exit: Exit::Unreachable, .. })
    }

    /// Tells it on standard error, the whole chain once, and gives the exit code.
    #[must_use]
    pub fn report(&self) -> u8 {
        match self {
            Self::Told { exit, error, next } => {
                let causes = error.chain().skip(1).map(|cause| format!("  caused by: {cause}"));
                let next = next.iter().map(|next| format!("  next: {next}"));
                let lines: Vec<_> =
                    [format!("error: {error}")].into_iter().chain(causes).chain(next).collect();
                output::note(&lines.join("\n"));
                *exit as u8
            }
            Self::StdoutClosed => 0,
            Self::Interrupted => 130,
        }
    }
}

/// A plain failure with its causes.
impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::from_error(Exit::Failed, error)
    }
}

/// Of writing to standard output.
pub(super) fn stdout(error: io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Failure::StdoutClosed;
    }
    Failure::from(anyhow::Error::new(error).context("standard output cannot be written"))
}
