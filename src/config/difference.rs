//! The difference between two configurations.

use std::collections::BTreeSet;

use super::{
    keys::{KEYS, RUNTIME_KEYS},
    settings::Config,
};
use crate::domain::runtime::Runtime;

/// A key whose value differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Name of the key, such as `sweep.unknown_grace`; `runtimes.NAME` if only one side has the runtime.
    pub key: String,
    /// Value in the first configuration, in TOML syntax without the values of environment variables; `None` if unset.
    pub before: Option<String>,
    /// Value in the second configuration.
    pub after: Option<String>,
}

impl Config {
    /// Every key with its value in TOML syntax, in the order of the template.
    #[must_use]
    pub fn values(&self) -> Vec<(String, Option<String>)> {
        values(&mut self.clone())
    }
}

pub(super) fn values(config: &mut Config) -> Vec<(String, Option<String>)> {
    let mut values = Vec::new();
    for key in KEYS {
        values.push((key.path.to_owned(), (key.slot)(config).show()));
    }
    for (name, runtime) in &mut config.runtimes {
        for key in RUNTIME_KEYS {
            values.push((format!("runtimes.{name}.{}", key.path), (key.slot)(runtime).show()));
        }
    }
    values
}

/// The keys whose values differ, in the order of the template. Compares the values and not their texts, because the
/// texts do not contain the values of environment variables.
#[must_use]
pub fn differences(before: &Config, after: &Config) -> Vec<Difference> {
    // A key gives access to its field through a mutable reference only.
    let (mut before, mut after) = (before.clone(), after.clone());
    let mut found = Vec::new();
    for key in KEYS {
        let (one, other) = ((key.slot)(&mut before), (key.slot)(&mut after));
        if one != other {
            found.push(Difference { key: key.path.to_owned(), before: one.show(), after: other.show() });
        }
    }
    let names: BTreeSet<String> = before.runtimes.keys().chain(after.runtimes.keys()).cloned().collect();
    for name in names {
        match (before.runtimes.get_mut(&name), after.runtimes.get_mut(&name)) {
            (Some(before), Some(after)) => {
                for key in RUNTIME_KEYS {
                    let (one, other) = ((key.slot)(before), (key.slot)(after));
                    if one != other {
                        let key = format!("runtimes.{name}.{}", key.path);
                        found.push(Difference { key, before: one.show(), after: other.show() });
                    }
                }
            }
            (before, after) => found.push(Difference {
                key: format!("runtimes.{name}"),
                before: before.map(inline),
                after: after.map(inline),
            }),
        }
    }
    found
}

/// Formats a runtime in one line, with only the keys whose values differ from those of `plain`.
fn inline(runtime: &mut Runtime) -> String {
    let mut plain = Runtime::plain();
    let set = RUNTIME_KEYS.iter().filter_map(|key| {
        let (value, usual) = ((key.slot)(runtime), (key.slot)(&mut plain));
        if value == usual { None } else { Some(format!("{} = {}", key.path, value.show()?)) }
    });
    let set: Vec<_> = set.collect();
    if set.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", set.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::fixture::{keys, read_text};

    #[test]
    fn config_difference_hides_environment_values() {
        let running = read_text("[runtimes.agent]\nenv = { KEY = \"hunter1\" }").unwrap();
        let new = read_text("[runtimes.agent]\nenv = { KEY = \"hunter2\" }").unwrap();
        let found = differences(&running, &new);
        assert_eq!(keys(&found), ["runtimes.agent.env"], "the value differs");
        assert!(!format!("{found:?}").contains("hunter"), "{found:?}");
        assert_eq!(found[0].before, found[0].after);
    }
}
