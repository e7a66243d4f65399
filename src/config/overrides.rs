//! Settings that take precedence over the file.

use std::path::PathBuf;

use super::paths::default_file;

/// Environment variable that names the configuration file.
pub(super) const FILE_VARIABLE: &str = "OSTLER_CONFIG";

/// Settings that take precedence over the file: environment variables and flags. The caller passes them, so that tests
/// need not change the environment.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// Value of the flag `--config`.
    pub file: Option<PathBuf>,
    /// Value of the flag `--data-dir`.
    pub data_dir: Option<PathBuf>,
    /// Environment variables; only `OSTLER_*` is read.
    pub env: Vec<(String, String)>,
}

impl Overrides {
    /// The file to read, and whether it was named explicitly.
    pub(super) fn file(&self) -> (PathBuf, bool) {
        let named = self.file.clone().or_else(|| self.variable(FILE_VARIABLE).map(PathBuf::from));
        match named {
            Some(path) => (path, true),
            None => (default_file(), false),
        }
    }

    /// The file that is read, or that `config init` writes.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.file().0
    }

    fn variable(&self, name: &str) -> Option<&str> {
        self.env.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}
