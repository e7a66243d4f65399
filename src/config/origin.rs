//! The source of a value.

use std::{fmt, path::PathBuf};

/// Source of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Default,
    File { path: PathBuf, line: usize },
    Variable(String),
    Flag(&'static str),
}

impl Origin {
    /// The short form for `config show`, which names the file once above the table.
    pub(super) fn short(&self) -> String {
        match self {
            Self::File { line, .. } => format!("file:{line}"),
            Self::Default | Self::Variable(_) | Self::Flag(_) => self.to_string(),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}
