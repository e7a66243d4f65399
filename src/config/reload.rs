//! The settings that a running daemon can reload.

use super::{
    Config,
    sections::{EngineConfig, LogConfig, SweepConfig},
};

impl Config {
    /// This configuration, with those settings of `new` that take effect without a restart.
    ///
    /// The other settings, such as sockets, locks, deadlines of the engine client and periods of passes, are read only
    /// when the daemon starts.
    #[must_use]
    pub fn reloaded(&self, new: &Self) -> Self {
        Self {
            file: new.file.clone(),
            engine: EngineConfig { log_size: new.engine.log_size, ..self.engine.clone() },
            access: new.access.clone(),
            external: new.external.clone(),
            restart: new.restart,
            sweep: SweepConfig { check_interval: self.sweep.check_interval, ..new.sweep.clone() },
            runtimes: new.runtimes.clone(),
            log: LogConfig { level: new.log.level.clone(), ..self.log.clone() },
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{
        difference::differences,
        fixture::{keys, read_text},
        keys::KEYS,
    };

    /// A configuration file in which every key has a value that differs from its default.
    const EVERYTHING_ELSE: &str = r#"
data_dir = "/other"
runtime_dir = "/else"
ports = "25000-25100"
[engine]
socket = "unix:///x.sock"
read_deadline = "1s"
change_deadline = "1s"
pull_deadline = "1s"
concurrent_starts = 7
log_size = "1MiB"
[network]
isolate = true
port = 7000
platform_url = "http://x"
listen = ["127.0.0.1"]
[access]
root_siblings = false
wakes_per_hour = 1
[external]
allow_private = true
allow_loopback = true
[restart]
first_backoff = "1s"
longest_backoff = "2s"
reset_after = "3s"
park_after_exits = 9
window = "4s"
[sweep]
absence_grace = "1s"
unknown_grace = "1s"
trash_retention = "1s"
event_retention = "1s"
check_interval = "1s"
[log]
level = "trace"
format = "json"
[runtimes.agent]
env = { KEY = "other" }
stop_grace = "1s"
[runtimes.new]
image = "agent:1"
"#;

    #[test]
    fn config_key_is_applied_on_reload_or_waits_for_restart() {
        let running = Config::at("/data".into(), "/run".into());
        let new = read_text(EVERYTHING_ELSE).unwrap();
        let all = differences(&running, &new);
        let of_runtimes = ["runtimes.agent.stop_grace", "runtimes.agent.env", "runtimes.new"];
        let expected: Vec<_> = KEYS.iter().map(|key| key.path).chain(of_runtimes).collect();
        assert_eq!(keys(&all), expected, "the file above changes every key");
        let next = running.reloaded(&new);
        let waiting = differences(&next, &new);
        assert_eq!(
            keys(&waiting),
            [
                "data_dir",
                "runtime_dir",
                "ports",
                "engine.socket",
                "engine.read_deadline",
                "engine.change_deadline",
                "engine.pull_deadline",
                "engine.concurrent_starts",
                "network.isolate",
                "network.port",
                "network.platform_url",
                "network.listen",
                "sweep.check_interval",
                "log.format",
            ],
            "these keys take effect at a restart; add a new key to this list or to `Config::reloaded`"
        );
        let applied = differences(&running, &next);
        assert_eq!(
            applied.len() + waiting.len(),
            all.len(),
            "every key is either applied at once or waits for a restart"
        );
    }
}
