//! Tests of the configuration: sources of values, their precedence, and rejected values.

use super::*;

/// Reads `text` as a file called `config.toml`.
fn read_text(text: &str) -> Result<Config, String> {
    let mut loading = Loading::new(Config::at("/data".into(), "/run".into()));
    loading.file(Path::new("config.toml"), text);
    loading.check_together();
    loading.finish().map(|loaded| loaded.config).map_err(|error| error.to_string())
}

fn with_env(name: &str, value: &str) -> Result<Loaded, String> {
    let mut loading = Loading::new(Config::at("/data".into(), "/run".into()));
    loading.environment(&[(name.to_owned(), value.to_owned())]);
    loading.check_together();
    loading.finish().map_err(|error| error.to_string())
}

#[test]
fn config_error_names_file_line_key_and_nearest_key() {
    for (text, message) in [
        ("\nport = 1", "config.toml:2: unknown key `port`; did you mean `network.port`?"),
        ("[network]\nprot = 1", "config.toml:2: unknown key `network.prot`; did you mean `network.port`?"),
        (
            "[sweep]\n\nunkown_grace = \"5m\"",
            "config.toml:3: unknown key `sweep.unkown_grace`; did you mean `sweep.unknown_grace`?",
        ),
        (
            "absence_grace = \"5m\"",
            "config.toml:1: unknown key `absence_grace`; did you mean `sweep.absence_grace`?",
        ),
        ("[sweeps]\n", "config.toml:1: unknown key `sweeps`; did you mean `sweep`?"),
        (
            "[log]\nzzz = 1",
            "config.toml:2: unknown key `log.zzz`; known keys here are `log.level`, `log.format`",
        ),
        ("sweep = 5", "config.toml:1: `sweep` is a section: write its keys below a `[sweep]` line"),
        (
            "[sweep]\nabsence_grace = 300",
            "config.toml:2: `sweep.absence_grace`: expected a duration above 0, such as \"90s\", \"10m\" or \
             \"14d\", found 300",
        ),
        (
            "[sweep]\nabsence_grace = \"0s\"",
            "config.toml:2: `sweep.absence_grace`: expected a duration above 0, such as \"90s\", \"10m\" or \
             \"14d\", found \"0s\"",
        ),
        (
            "ports = \"9000-8000\"",
            "config.toml:1: `ports`: expected a port range, lowest first, such as \"21000-28999\", found \
             \"9000-8000\"",
        ),
        (
            "[network]\nport = 70000",
            "config.toml:2: `network.port`: expected a port from 1 to 65535, found 70000",
        ),
        (
            "[network]\nport = 22000",
            "config.toml:2: `network.port` 22000 is within `ports` 21000-28999, the range for containers: change \
             one of them",
        ),
        (
            "[network]\nplatform_url = \"box:7717\"",
            "config.toml:2: `network.platform_url`: expected a URL that begins with http:// or https://, found \
             \"box:7717\"",
        ),
        (
            "[network]\nlisten = [\"127.0.0.1\", \"999.1.1.1\"]",
            "config.toml:2: `network.listen`: expected an address without a port, such as \"127.0.0.1\", found \"999.1.1.1\"",
        ),
        ("[network]\nisolate = 1", "config.toml:2: `network.isolate`: expected true or false, found 1"),
        ("data_dir = \"here\"", "config.toml:1: `data_dir`: expected an absolute path, found \"here\""),
        (
            "[log]\nformat = \"xml\"",
            "config.toml:2: `log.format`: expected \"auto\", \"pretty\" or \"json\", found \"xml\"",
        ),
        (
            "[runtimes.agent]\nimag = \"x\"",
            "config.toml:2: unknown key `runtimes.agent.imag`; did you mean `runtimes.agent.image`?",
        ),
        (
            "[runtimes.agent]\nmemory = \"512\"",
            "config.toml:2: `runtimes.agent.memory`: expected an amount of memory with its unit, such as \
             \"512MiB\" or \"2GiB\", found \"512\"",
        ),
        (
            "[runtimes.agent]\nprivileged_tiers = [4, 5]",
            "config.toml:2: `runtimes.agent.privileged_tiers`: expected a list of tiers from 1 to 4, such as [4], \
             found 5",
        ),
        (
            "[runtimes.agent]\nuser = \"agent\"",
            "config.toml:2: `runtimes.agent.user`: expected a user as \"uid:gid\", such as \"1000:1000\", found \
             \"agent\"",
        ),
        (
            "[runtimes.agent]\nreadiness = \"ready\"",
            "config.toml:2: `runtimes.agent.readiness`: expected \"container\" or \"heartbeat\", found \"ready\"",
        ),
        (
            "[runtimes.agent.env]\nDEPTH = 3",
            "config.toml:1: `runtimes.agent.env`: `DEPTH`: expected a string, found an integer; put it in quotes",
        ),
        (
            "[runtimes.\"My Agent\"]\n",
            "config.toml:1: `runtimes.My Agent`: a runtime's name must have 1 to 63 characters: lower-case letters, \
             digits, `-`, `_`",
        ),
        (
            "[runtimes.external]\n",
            "config.toml:1: `runtimes.external`: this name is reserved for external agents; choose another",
        ),
        ("runtimes = 1", "config.toml:1: `runtimes` is a section: write `[runtimes.NAME]`"),
        (
            "[runtimes]\nimage = \"x\"",
            "config.toml:2: `runtimes.image` is a section: write its keys below a `[runtimes.image]` line",
        ),
    ] {
        assert_eq!(read_text(text).unwrap_err(), message, "of the file:\n{text}");
    }
}

#[test]
fn config_errors_are_reported_together() {
    let error = read_text("prots = 1\n[sweep]\nabsence_grace = 1\n").unwrap_err();
    assert!(error.starts_with("the configuration has 2 problems:\n  config.toml:1: "), "{error}");
    assert!(error.contains("\n  config.toml:3: "), "{error}");
}

#[test]
fn invalid_toml_is_refused_with_its_line() {
    let error = read_text("data_dir = \"/x\"\n[sweep\n").unwrap_err();
    assert!(error.starts_with("config.toml:2: invalid TOML: "), "{error}");
}

#[test]
fn config_file_overrides_only_the_keys_it_sets() {
    let config = read_text(
        "ports = \"30000-30100\"\n\
         [engine]\npull_deadline = \"1h\"\n\
         [runtimes.agent]\nimage = \"agent:1\"\nmemory = \"2GiB\"\ncpus = 1\nuser = \"7\"\n\
         readiness = \"heartbeat\"\nprivileged_tiers = [4]\ncommand = [\"run\"]\nenv = { A = \"b\" }\n",
    )
    .unwrap();
    assert_eq!(config.ports, PortRange { first: 30000, last: 30100 });
    assert_eq!(config.engine.pull_deadline, Duration::from_hours(1));
    assert_eq!(config.engine.read_deadline, Duration::from_secs(20));
    assert_eq!(config.runtimes[PLAIN], Runtime::plain());
    let agent = &config.runtimes["agent"];
    assert_eq!(agent.memory_bytes, Some(2 << 30));
    assert_eq!(agent.cpus, Some(1.0));
    assert_eq!(agent.user.to_string(), "7:7");
    assert_eq!(agent.provisioning_limit, Runtime::plain().provisioning_limit);
    assert_eq!(agent.env["A"], "b");
}

#[test]
fn environment_variable_overrides_file_and_is_named_in_error() {
    let loaded = with_env("OSTLER_SWEEP_UNKNOWN_GRACE", "7m").unwrap();
    assert_eq!(loaded.config.sweep.unknown_grace, Duration::from_mins(7));
    let setting = loaded.settings.iter().find(|setting| setting.key == "sweep.unknown_grace").unwrap();
    assert_eq!(setting.value.as_deref(), Some("\"7m\""));
    assert_eq!(setting.source, "OSTLER_SWEEP_UNKNOWN_GRACE");

    let error = with_env("OSTLER_NETWORK_PORT", "many").unwrap_err();
    assert_eq!(error, "OSTLER_NETWORK_PORT: `network.port`: expected a port from 1 to 65535, found \"many\"");
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
fn data_directory_too_long_for_a_socket_is_refused() {
    let long = format!("/{}", "d".repeat(100));
    let error = with_env("OSTLER_DATA_DIR", &long).unwrap_err();
    assert!(error.starts_with("OSTLER_DATA_DIR: `data_dir` is too long: the socket's path /ddd"), "{error}");
    assert!(error.contains("has 113 bytes, but the kernel allows at most 107"), "{error}");
}

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

#[test]
fn durations_and_memory_sizes_round_trip() {
    for text in ["500ms", "20s", "10m", "1h30m", "14d", "1d2h3m4s5ms"] {
        let mut duration = Duration::ZERO;
        value::Slot::Duration(&mut duration).set(&DeValue::String(text.into())).unwrap();
        assert_eq!(value::duration_text(duration), text);
    }
    for text in ["1B", "1000KiB", "512MiB", "3GiB"] {
        let mut memory = None;
        value::Slot::Memory(&mut memory).set(&DeValue::String(text.into())).unwrap();
        assert_eq!(value::Slot::Memory(&mut memory).show().unwrap(), format!("\"{text}\""));
    }
}

/// The values of environment variables may be secrets.
#[test]
fn runtime_environment_is_shown_without_values() {
    let config = read_text("[runtimes.agent.env]\nAPI_KEY = \"hunter2\"\n").unwrap();
    assert!(!format!("{config:?}").contains("hunter2"));
    let displayed = value::Slot::Env(&mut config.runtimes["agent"].env.clone()).show().unwrap();
    assert_eq!(displayed, "{ API_KEY = … }");
}

#[test]
fn platform_url_loses_its_trailing_slash_and_spaces() {
    for given in ["http://box:7717/", "http://box:7717//", " http://box:7717 ", "http://box:7717"] {
        let config = read_text(&format!("[network]\nplatform_url = \"{given}\"")).unwrap();
        assert_eq!(config.network.platform_url.as_deref(), Some("http://box:7717"), "{given:?}");
    }
}

#[test]
fn log_level_must_be_a_known_level_or_target_filter() {
    for level in ["info", "WARN", "off", "info,ostler::sweep=debug", "ostler::http", "[span]=trace"] {
        let read = read_text(&format!("[log]\nlevel = \"{level}\""));
        assert!(read.is_ok(), "{level}: {read:?}");
    }
    for level in ["warning", "ERR", "info,verbose"] {
        let refused = read_text(&format!("[log]\nlevel = \"{level}\"")).unwrap_err();
        assert!(refused.contains("is not a log level"), "{level}: {refused}");
    }
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

#[test]
fn config_error_explains_invalid_values_and_duplicate_keys() {
    for (text, message) in [
        (
            "[log]\nlevel = \"warning\"",
            "config.toml:2: `log.level`: `warning` is not a log level: use one of off, error, warn, info, debug, trace, or \
             `TARGET=LEVEL`, such as `ostler::sweep=debug`",
        ),
        ("[network]\nport = 1\nport = 2", "config.toml:3: invalid TOML: duplicate key: `port`"),
        (
            "[network]\nplatform_url = \"http://a b\"",
            "config.toml:2: `network.platform_url`: expected a URL that begins with http:// or https://, found \
             \"http://a b\"",
        ),
    ] {
        assert_eq!(read_text(text).unwrap_err(), message, "{text}");
    }
}

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

fn keys(differences: &[Difference]) -> Vec<&str> {
    differences.iter().map(|one| one.key.as_str()).collect()
}

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

#[test]
fn config_difference_hides_environment_values() {
    let running = read_text("[runtimes.agent]\nenv = { KEY = \"hunter1\" }").unwrap();
    let new = read_text("[runtimes.agent]\nenv = { KEY = \"hunter2\" }").unwrap();
    let found = differences(&running, &new);
    assert_eq!(keys(&found), ["runtimes.agent.env"], "the value differs");
    assert!(!format!("{found:?}").contains("hunter"), "{found:?}");
    assert_eq!(found[0].before, found[0].after);
}
