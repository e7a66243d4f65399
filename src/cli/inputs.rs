//! Reads what arguments refer to: environment variables, files and directories of this machine.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use super::failure::{Exit, Failure};

/// Merges `--env` and `--env-file`; `--env` takes precedence.
pub(super) fn variables(env: &[String], file: Option<&Path>) -> Result<BTreeMap<String, String>, Failure> {
    let mut variables = BTreeMap::new();
    if let Some(file) = file {
        variables.extend(read_env_file(file)?);
    }
    variables.extend(environment(env)?);
    Ok(variables)
}

fn wrong(error: anyhow::Error) -> Failure {
    Failure::from_error(Exit::Usage, error)
}

pub(super) fn read(file: &Path) -> Result<String, Failure> {
    fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display())).map_err(wrong)
}

/// Parses `KEY=VALUE` or `KEY`. For `KEY`, the value comes from this process's environment, so that a secret does not
/// get into the shell's history.
pub(super) fn environment(given: &[String]) -> Result<Vec<(String, String)>, Failure> {
    given.iter().map(|one| variable(one)).collect()
}

fn variable(given: &str) -> Result<(String, String), Failure> {
    let (key, value) = match given.split_once('=') {
        Some((key, value)) => (key, value.to_owned()),
        None => (given, inherited(given)?),
    };
    if let Some(why) = no_variable(key) {
        return Err(Failure::new(Exit::Usage, format!("--env: {why}")));
    }
    Ok((key.to_owned(), value))
}

/// Returns why `key` is not valid as the name of a variable; `None` if it is valid.
fn no_variable(key: &str) -> Option<String> {
    if key.is_empty() {
        Some("the name before `=` is empty".to_owned())
    } else if key.contains(|c: char| c.is_whitespace() || c.is_control()) {
        Some(format!("the name {key:?} contains white space or a control character"))
    } else {
        None
    }
}

fn inherited(key: &str) -> Result<String, Failure> {
    std::env::var(key).map_err(|_| {
        let why = format!("--env {key}: this variable is not set in the environment, or not valid UTF-8");
        Failure::new(Exit::Usage, why).next(format!("pass a value: `--env {key}=VALUE`"))
    })
}

fn read_env_file(file: &Path) -> Result<Vec<(String, String)>, Failure> {
    parse_env_file(&read(file)?)
        .map_err(|(line, why)| Failure::new(Exit::Usage, format!("{}:{line}: {why}", file.display())))
}

/// Parses lines of `KEY=VALUE`. A byte order mark and `export` before the key are skipped; empty lines and lines that
/// begin with `#` are ignored. Values are taken literally: quotes are not removed.
///
/// # Errors
/// The number of the first invalid line and the reason, which never contains a value.
fn parse_env_file(text: &str) -> Result<Vec<(String, String)>, (usize, String)> {
    let mut variables = Vec::new();
    for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((key, value)) = line.split_once('=') else {
            return Err((index + 1, "expected KEY=VALUE".to_owned()));
        };
        let key = key.strip_prefix("export ").unwrap_or(key).trim();
        if let Some(why) = no_variable(key) {
            return Err((index + 1, why));
        }
        variables.push((key.to_owned(), value.to_owned()));
    }
    Ok(variables)
}

/// Parses `PATH`, `PATH:ro` or `PATH:rw`. The path is made absolute, because the daemon has another working directory.
pub(super) fn directory(given: &str) -> Result<(String, String), Failure> {
    let (path, access) = match given.rsplit_once(':') {
        Some((path, "ro")) => (path, "read_only"),
        Some((path, "rw")) => (path, "read_write"),
        Some((path, option @ ("z" | "Z" | "U"))) if !Path::new(given).exists() => {
            let why = format!("--dir {given}: `:{option}` is not supported, only `:ro` and `:rw`");
            let next = format!(
                "if SELinux denies access, set the label yourself: `chcon -Rt container_file_t {path}`"
            );
            return Err(Failure::new(Exit::Usage, why).next(next));
        }
        Some(_) | None => (given, "read_write"),
    };
    let found = fs::canonicalize(path).with_context(|| format!("--dir {path} cannot be used"));
    let found: PathBuf = found.map_err(wrong)?;
    if !found.is_dir() {
        return Err(Failure::new(Exit::Usage, format!("--dir {path} is not a directory")));
    }
    match found.into_os_string().into_string() {
        Ok(path) => Ok((path, access.to_owned())),
        Err(_) => Err(Failure::new(Exit::Usage, format!("--dir {path}: the path is not valid UTF-8"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn env_file_with_byte_order_mark_keeps_its_first_variable() {
        let read = parse_env_file("\u{feff}FIRST=1\r\nexport SECOND=a b\n\n# no\n THIRD==x\n");
        let expected = [("FIRST", "1"), ("SECOND", "a b"), ("THIRD", "=x")];
        assert_eq!(read, Ok(expected.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec()));
    }

    #[test]
    fn env_file_error_gives_line_of_invalid_variable() {
        for (text, line) in [("A=1\nB C=2", 2), ("=1", 1), ("A", 1), ("export A B=1", 1)] {
            let refused = parse_env_file(text).expect_err(text);
            assert_eq!(refused.0, line, "{text:?}: {refused:?}");
        }
        assert!(variable("A B=1").is_err(), "--env refuses such a name too");
    }

    #[test]
    fn podman_mount_option_is_refused_and_named_in_error() {
        let refused = format!("{:?}", directory("/nowhere:Z").expect_err("there is no such option"));
        assert!(refused.contains("`:Z` is not supported"), "{refused}");
    }
}
