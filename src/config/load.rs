//! Reads the file, the environment and the flags in the order of their precedence.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use toml::de::DeValue;

use super::{
    advice::variable_advice,
    difference::values,
    error::{ConfigError, Problem},
    keys::KEYS,
    origin::Origin,
    overrides::{FILE_VARIABLE, Overrides},
    settings::Config,
};

/// A configuration, with the source of every value.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The validated values.
    pub config: Config,
    /// Every key with its effective value and its source, in the order of the template.
    pub settings: Vec<Setting>,
    /// Problems that do not prevent the use of the configuration, such as unknown environment variables.
    pub warnings: Vec<String>,
}

/// A key with its effective value and its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Name of the key, such as `sweep.unknown_grace`.
    pub key: String,
    /// The value in TOML syntax; `None` if unset.
    pub value: Option<String>,
    /// `default`, `file:LINE`, the name of an environment variable, or a flag.
    pub source: String,
}

/// Reads and validates the configuration.
pub fn load(overrides: &Overrides) -> Result<Loaded, ConfigError> {
    gather(overrides)?.finish()
}

/// Path of the daemon's socket if [`load`] has failed. Commands that need only the socket use it: a mistake in the
/// configuration file must not prevent an operator from stopping a workspace. A key with an error counts as unset, and
/// so do all keys of an unreadable file. It is therefore possible that no socket exists at this path.
#[must_use]
pub fn socket_despite_errors(overrides: &Overrides) -> PathBuf {
    let loading = gather(overrides).unwrap_or_else(|_| {
        let mut loading = Loading::new(Config::defaults());
        loading.outside_the_file(overrides);
        loading
    });
    loading.config.socket()
}

fn gather(overrides: &Overrides) -> Result<Loading, ConfigError> {
    let mut loading = Loading::new(Config::defaults());
    let (path, asked_for) = overrides.file();
    if let Some(text) = read(&path, asked_for)? {
        loading.file(&path, &text);
        loading.config.file = Some(path);
    }
    loading.outside_the_file(overrides);
    loading.check_together();
    Ok(loading)
}

/// Reads the file. `None` if it does not exist and `asked_for` is false, which means that the operator did not name it.
fn read(path: &Path, asked_for: bool) -> Result<Option<String>, ConfigError> {
    match fs::read(path) {
        Ok(bytes) => match String::from_utf8(bytes) {
            Ok(text) => Ok(Some(text)),
            Err(error) => {
                let valid = error.utf8_error().valid_up_to();
                let line = error.as_bytes()[..valid].split(|byte| *byte == b'\n').count();
                let source = io::Error::new(io::ErrorKind::InvalidData, format!("line {line} is not UTF-8"));
                Err(ConfigError::Unreadable { path: path.to_owned(), source })
            }
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound && !asked_for => Ok(None),
        Err(source) => Err(ConfigError::Unreadable { path: path.to_owned(), source }),
    }
}

/// State of a configuration while it is read.
pub(super) struct Loading {
    pub(super) config: Config,
    pub(super) origins: BTreeMap<String, Origin>,
    problems: Vec<Problem>,
    warnings: Vec<String>,
}

impl Loading {
    /// Applies the environment and the flags.
    fn outside_the_file(&mut self, overrides: &Overrides) {
        self.environment(&overrides.env);
        if let Some(dir) = &overrides.data_dir {
            self.data_dir_flag(dir);
        }
    }

    pub(super) fn new(config: Config) -> Self {
        Self { config, origins: BTreeMap::new(), problems: Vec::new(), warnings: Vec::new() }
    }

    pub(super) fn problem(&mut self, origin: Origin, message: String) {
        self.problems.push(Problem { origin, message });
    }

    pub(super) fn environment(&mut self, env: &[(String, String)]) {
        for (name, value) in env {
            if name == FILE_VARIABLE || !name.starts_with("OSTLER_") {
                continue;
            }
            match KEYS.iter().find(|key| key.variable() == *name) {
                Some(key) => {
                    let value = DeValue::String(value.into());
                    self.set(key.path, &value, Origin::Variable(name.clone()));
                }
                None => self
                    .warnings
                    .push(format!("unknown environment variable {name}{}", variable_advice(name))),
            }
        }
    }

    fn data_dir_flag(&mut self, dir: &Path) {
        match std::path::absolute(dir) {
            Ok(dir) => {
                self.config.data_dir = dir;
                self.origins.insert("data_dir".to_owned(), Origin::Flag("--data-dir"));
            }
            Err(why) => self.problem(Origin::Flag("--data-dir"), why.to_string()),
        }
    }

    pub(super) fn set(&mut self, path: &str, value: &DeValue<'_>, origin: Origin) {
        let Some(key) = KEYS.iter().find(|key| key.path == path) else { return };
        match (key.slot)(&mut self.config).set(value) {
            Ok(()) => drop(self.origins.insert(path.to_owned(), origin)),
            Err(why) => self.problem(origin, format!("`{path}`: {why}")),
        }
    }

    pub(super) fn origin(&self, key: &str) -> Origin {
        self.origins.get(key).cloned().unwrap_or(Origin::Default)
    }

    pub(super) fn finish(mut self) -> Result<Loaded, ConfigError> {
        if !self.problems.is_empty() {
            // The problems were found in the order of the keys' names. They are reported in the order of lines, because
            // operators read a file from the top.
            self.problems.sort_by_key(|problem| match problem.origin {
                Origin::File { line, .. } => line,
                Origin::Default | Origin::Variable(_) | Origin::Flag(_) => usize::MAX,
            });
            return Err(ConfigError::Invalid(self.problems));
        }
        let settings = self.settings();
        Ok(Loaded { config: self.config, settings, warnings: self.warnings })
    }

    fn settings(&mut self) -> Vec<Setting> {
        let values = values(&mut self.config);
        let source = |key: &str| self.origin(key).short();
        values.into_iter().map(|(key, value)| Setting { source: source(&key), key, value }).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::fixture::with_env;

    #[test]
    fn environment_variable_overrides_file_and_is_named_in_error() {
        let loaded = with_env("OSTLER_SWEEP_UNKNOWN_GRACE", "7m").unwrap();
        assert_eq!(loaded.config.sweep.unknown_grace, Duration::from_mins(7));
        let setting = loaded.settings.iter().find(|setting| setting.key == "sweep.unknown_grace").unwrap();
        assert_eq!(setting.value.as_deref(), Some("\"7m\""));
        assert_eq!(setting.source, "OSTLER_SWEEP_UNKNOWN_GRACE");

        let error = with_env("OSTLER_NETWORK_PORT", "many").unwrap_err();
        assert_eq!(
            error,
            "OSTLER_NETWORK_PORT: `network.port`: expected a port from 1 to 65535, found \"many\""
        );
    }

    #[test]
    fn unknown_environment_variable_warns_with_nearest_name() {
        let loaded = with_env("OSTLER_DATADIR", "/x").unwrap();
        assert_eq!(
            loaded.warnings,
            ["unknown environment variable OSTLER_DATADIR; did you mean OSTLER_DATA_DIR?"]
        );
    }

    #[test]
    fn non_utf8_config_file_is_refused_with_line_number() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.toml");
        fs::write(&path, b"[network]\nport = 7718\n# caf\xe9\n").unwrap();
        let refused = read(&path, true).unwrap_err();
        let chain = format!("{:#}", anyhow::Error::from(refused));
        assert!(chain.contains("line 3 is not UTF-8"), "{chain}");
    }
}
