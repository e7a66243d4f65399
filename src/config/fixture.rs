//! Configurations for tests, and their differences.

use std::path::Path;

use super::{
    difference::Difference,
    load::{Loaded, Loading},
    settings::Config,
};

/// Reads `text` as a file called `config.toml`.
pub(super) fn read_text(text: &str) -> Result<Config, String> {
    let mut loading = Loading::new(Config::at("/data".into(), "/run".into()));
    loading.file(Path::new("config.toml"), text);
    loading.check_together();
    loading.finish().map(|loaded| loaded.config).map_err(|error| error.to_string())
}

pub(super) fn with_env(name: &str, value: &str) -> Result<Loaded, String> {
    let mut loading = Loading::new(Config::at("/data".into(), "/run".into()));
    loading.environment(&[(name.to_owned(), value.to_owned())]);
    loading.check_together();
    loading.finish().map_err(|error| error.to_string())
}

pub(super) fn keys(differences: &[Difference]) -> Vec<&str> {
    differences.iter().map(|one| one.key.as_str()).collect()
}
