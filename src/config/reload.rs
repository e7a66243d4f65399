//! The settings that a running daemon can reload.

use super::{
    keys::{Effect, KEYS},
    settings::Config,
};

impl Config {
    /// The configuration `new`, except that keys which take effect at a restart keep the values of this one.
    #[must_use]
    pub fn reloaded(&self, new: &Self) -> Self {
        // A key gives access to its field through a mutable reference only.
        let (mut running, mut next) = (self.clone(), new.clone());
        for key in KEYS.iter().filter(|key| key.effect == Effect::AtRestart) {
            (key.slot)(&mut next).swap((key.slot)(&mut running));
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{
        difference::differences,
        fixture::{keys, read_text},
        keys::RUNTIME_KEYS,
        slot::tests::alter,
    };

    /// Changes the runtimes in every way: a new one, and other values of one that exists.
    const OTHER_RUNTIMES: &str = r#"
[runtimes.agent]
env = { KEY = "other" }
stop_grace = "1s"
[runtimes.new]
image = "agent:1"
"#;

    /// A configuration in which every key has a value that differs from its default. It is read from a file.
    fn everything_else() -> Config {
        let mut other = Config::at("/data".into(), "/run".into());
        let mut text = String::new();
        for key in KEYS {
            alter((key.slot)(&mut other));
            let value = (key.slot)(&mut other).show().expect("it is set");
            text.extend([key.path, " = ", &value, "\n"]);
        }
        let read = read_text(&(text + OTHER_RUNTIMES)).unwrap();
        assert_eq!(keys(&differences(&other, &read)), OF_RUNTIMES, "the file contains every value");
        read
    }

    const OF_RUNTIMES: [&str; 3] = ["runtimes.agent.stop_grace", "runtimes.agent.env", "runtimes.new"];

    #[test]
    fn config_key_is_applied_on_reload_or_waits_for_restart() {
        let running = Config::at("/data".into(), "/run".into());
        let new = everything_else();
        let all = differences(&running, &new);
        let expected: Vec<_> = KEYS.iter().map(|key| key.path).chain(OF_RUNTIMES).collect();
        assert_eq!(keys(&all), expected, "the file changes every key");
        let next = running.reloaded(&new);
        let waiting = differences(&next, &new);
        let applied = differences(&running, &next);
        assert_eq!(
            applied.len() + waiting.len(),
            all.len(),
            "every key is either applied at once or waits for a restart"
        );
        assert!(
            RUNTIME_KEYS.iter().all(|key| key.effect == Effect::AtReload),
            "runtimes are always reloaded"
        );
        insta::assert_snapshot!("keys_that_wait_for_a_restart", keys(&waiting).join("\n"));
    }
}
