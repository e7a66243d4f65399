//! The commented file that `ostler config init` writes.

use super::{
    keys::{KEYS, Key, RUNTIME_KEYS},
    settings::Config,
};
use crate::domain::runtime::Runtime;

const HEAD: &str = "\
# ostler's configuration. Every key shows its default; remove the `#` to change it.
# Environment variables override this file (OSTLER_SWEEP_UNKNOWN_GRACE sets sweep.unknown_grace), and
# flags override environment variables. Durations are written as \"90s\", \"10m\", \"14d\".
# `ostler config check` validates this file; `ostler config show` prints the effective values.";

const RUNTIMES: &str = "
# A runtime is a type of workspace, selected with `ostler create --runtime NAME`. `plain` always exists
# and is the default; other runtimes inherit the defaults of `plain`.
[runtimes.plain]";

/// Every key with its documentation and default, all commented out.
///
/// The file changes no setting until it is edited. Keys that stay commented out follow the defaults, even if a later
/// version changes them.
#[must_use]
pub fn template() -> String {
    let mut lines = vec![HEAD.to_owned()];
    let mut defaults = Config::defaults();
    let mut current = "";
    for key in KEYS {
        let (section, name) = key.path.split_once('.').unwrap_or(("", key.path));
        if section != current {
            lines.push(format!("\n[{section}]"));
            current = section;
        }
        lines.extend(entry(key, name, &mut defaults));
    }
    lines.push(RUNTIMES.to_owned());
    for key in RUNTIME_KEYS {
        lines.extend(entry(key, key.path, &mut Runtime::plain()));
    }
    lines.push(String::new());
    lines.join("\n")
}

fn entry<T>(key: &Key<T>, name: &str, defaults: &mut T) -> Vec<String> {
    let default = (key.slot)(defaults).show();
    let mut doc = key.doc.to_owned();
    if default.is_none() {
        doc.push_str("\nNot set by default; for example:");
    }
    let setting = format!("{name} = {}", default.as_deref().unwrap_or(key.example));
    let blank = [String::new()].into_iter();
    let doc = doc.lines().map(|line| format!("# {line}")).collect::<Vec<_>>();
    let setting = setting.lines().map(|line| format!("#{line}")).collect::<Vec<_>>();
    blank.chain(doc).chain(setting).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::fixture::read_text, domain::runtime::PLAIN};

    /// The template yields the default configuration, both as written and with its settings uncommented.
    #[test]
    fn config_template_equals_the_defaults() {
        let template = template();
        assert_eq!(read_text(&template).unwrap(), Config::at("/data".into(), "/run".into()));

        let mut live = Vec::new();
        let mut only_an_example = false;
        for line in template.lines() {
            if line.starts_with("# Not set by default") {
                only_an_example = true;
            } else if line.is_empty() {
                only_an_example = false;
            }
            let setting = line.strip_prefix('#').filter(|rest| !rest.starts_with(' ') && !only_an_example);
            live.push(setting.unwrap_or(line));
        }
        assert_eq!(read_text(&live.join("\n")).unwrap(), Config::defaults(), "{}", live.join("\n"));
    }

    #[test]
    fn config_template_examples_are_valid() {
        let examples: Vec<_> = template()
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(rest) if !rest.starts_with(' ') => rest.to_owned(),
                Some(_) | None => line.to_owned(),
            })
            .collect();
        let config = read_text(&examples.join("\n")).unwrap();
        assert_eq!(config.runtimes[PLAIN].config_template.as_deref(), Some("model: local\n"));
    }
}
