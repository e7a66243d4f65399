//! Checks whether the daemon runs with the values of its configuration file.

use super::verdict::{fail, ok, warn};
use crate::api::{
    configuration::{Reloaded, RunningConfig},
    doctor::Check,
};

/// Access to the configuration in force and the file that it was read from.
pub trait Configured: Send + Sync {
    /// Returns the values in force and how the file now differs from them.
    fn running(&self) -> RunningConfig;

    /// Reads the file again and applies every change that does not need a restart: all of them or none.
    ///
    /// # Errors
    /// If the file cannot be used: the position in the file and the reason. Nothing is changed then.
    fn reload(&self) -> Result<Reloaded, String>;

    /// Whether the file, as it is now, defines this runtime.
    fn file_has_runtime(&self, name: &str) -> bool;
}

/// A configuration that was built in code: it has no file, and a reload does nothing.
pub struct BuiltIn;

impl Configured for BuiltIn {
    fn running(&self) -> RunningConfig {
        RunningConfig { file: None, settings: Vec::new(), differences: Vec::new(), problem: None }
    }

    fn reload(&self) -> Result<Reloaded, String> {
        Ok(Reloaded { file: None, applied: Vec::new(), waiting: Vec::new() })
    }

    fn file_has_runtime(&self, _name: &str) -> bool {
        false
    }
}

pub(super) fn check(running: &RunningConfig) -> Check {
    const NAME: &str = "configuration";
    if let Some(problem) = &running.problem {
        return fail(
            NAME,
            format!(
                "the configuration file is invalid: the daemon keeps the previous values, but cannot start again \
                 with this file: {problem}"
            ),
            "correct the file; `ostler config check` checks it, `ostler reload` applies it",
        );
    }
    let keys = |applied_by: &str| {
        let keys = running.differences.iter().filter(|one| one.applied_by == applied_by);
        keys.map(|one| one.key.as_str()).collect::<Vec<_>>().join(", ")
    };
    let (reload, restart) = (keys("reload"), keys("restart"));
    let of = "the daemon does not yet use the configured values of";
    match (reload.is_empty(), restart.is_empty()) {
        (true, true) => ok(NAME, "the daemon uses the current configuration"),
        (false, true) => warn(
            NAME,
            format!("{of} {reload}"),
            "`ostler reload` applies them; `ostler config show` compares",
        ),
        (true, false) => warn(
            NAME,
            format!("{of} {restart}"),
            "restart the daemon to apply them (containers keep running); `ostler config show` compares",
        ),
        (false, false) => warn(
            NAME,
            format!("{of} {reload}, {restart}"),
            format!(
                "`ostler reload` applies {reload}; {restart}: restart the daemon (containers keep running). \
                 `ostler config show` compares"
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::configuration::ConfigDifference;

    fn running(differences: &[(&str, &str)], problem: Option<&str>) -> RunningConfig {
        let differences = differences.iter().map(|(key, applied_by)| ConfigDifference {
            key: (*key).to_owned(),
            running: None,
            configured: None,
            applied_by: (*applied_by).to_owned(),
        });
        RunningConfig {
            file: None,
            settings: Vec::new(),
            differences: differences.collect(),
            problem: problem.map(str::to_owned),
        }
    }

    #[test]
    fn configuration_check_names_the_next_step_for_each_key() {
        let (reload, restart) = (("runtimes.new", "reload"), ("network.port", "restart"));
        for (differences, verdict, advice) in [
            (&[][..], "ok", &[][..]),
            (&[reload], "warn", &["`ostler reload` applies"]),
            (&[restart], "warn", &["restart the daemon"]),
            (&[reload, restart], "warn", &["`ostler reload` applies runtimes.new", "network.port: restart"]),
        ] {
            let check = check(&running(differences, None));
            assert_eq!(check.verdict, verdict, "{check:?}");
            for (key, _) in differences {
                assert!(check.found.contains(key), "{key} is not named: {check:?}");
            }
            let advice_text = check.advice.clone().unwrap_or_default();
            for part in advice {
                assert!(advice_text.contains(part), "`{part}` is missing: {check:?}");
            }
        }
        let broken = check(&running(&[], Some("config.toml:3: unknown key `x`")));
        assert_eq!(broken.verdict, "fail", "a daemon that cannot start again is broken: {broken:?}");
        assert!(broken.found.contains("config.toml:3"), "{broken:?}");
    }
}
