//! Reload of a running daemon's configuration file: the real binary, without Podman.

use std::{
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::terminals::{Terminal, wait_until};
use crate::support::cli::{Ran, home, run_in};

/// A daemon and its configuration file. Dropping this value stops the daemon.
struct Served {
    home: TempDir,
    port: u16,
    daemon: Child,
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.daemon.kill());
        drop(self.daemon.wait());
    }
}

impl Served {
    /// Starts a daemon whose configuration is `config` plus an address and a port, and waits until the daemon answers.
    fn start(config: &str) -> Self {
        Self::begin(config, |mut command, log| {
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap()
        })
    }

    fn begin(config: &str, spawn: impl FnOnce(Command, File) -> Child) -> Self {
        let home = home();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        fs::write(home.path().join("config.toml"), text(port, config)).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_ostler"));
        let absent_engine = format!("unix://{}", home.path().join("absent.sock").display());
        command.arg("serve").env_clear().env("HOME", home.path()).env("OSTLER_DATA_DIR", home.path());
        command.env("OSTLER_RUNTIME_DIR", home.path().join("run")).env("OSTLER_ENGINE_SOCKET", absent_engine);
        command.env("OSTLER_CONFIG", home.path().join("config.toml"));
        let log = File::create(home.path().join("log")).unwrap();
        let served = Self { daemon: spawn(command, log), home, port };
        wait_until("the daemon answers", || served.run(&["ls"]).code == 0);
        served
    }

    fn file(&self) -> PathBuf {
        self.home.path().join("config.toml")
    }

    fn write(&self, config: &str) {
        fs::write(self.file(), text(self.port, config)).unwrap();
    }

    fn log(&self) -> String {
        fs::read_to_string(self.home.path().join("log")).unwrap()
    }

    /// Runs a command that reads the daemon's configuration file in the same environment.
    fn run(&self, args: &[&str]) -> Ran {
        self.run_with(&self.file(), args)
    }

    fn run_with(&self, file: &Path, args: &[&str]) -> Ran {
        let absent_engine = format!("unix://{}", self.home.path().join("absent.sock").display());
        let run = self.home.path().join("run");
        let env = [
            ("OSTLER_CONFIG", file.to_str().unwrap()),
            ("OSTLER_RUNTIME_DIR", run.to_str().unwrap()),
            ("OSTLER_ENGINE_SOCKET", absent_engine.as_str()),
        ];
        run_in(&self.home, args, &env, "")
    }

    fn json(&self, args: &[&str]) -> Value {
        let ran = self.run(&[args, &["--json"]].concat());
        serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("no JSON: {}", ran.transcript()))
    }

    /// Key and required action of every difference found by `config show`.
    fn differences(&self) -> Vec<(String, String)> {
        let shown = self.json(&["config", "show"]);
        let of = |one: &Value, key: &str| one[key].as_str().unwrap().to_owned();
        let found = shown["daemon"]["differences"].as_array().unwrap().iter();
        found.map(|one| (of(one, "key"), of(one, "applied_by"))).collect()
    }

    fn doctor(&self) -> Value {
        let report = self.json(&["doctor"]);
        let checks = report["checks"].as_array().unwrap();
        checks.iter().find(|check| check["name"] == "configuration").cloned().unwrap()
    }

    fn hangup(&self) {
        let pid = Pid::from_raw(i32::try_from(self.daemon.id()).unwrap()).unwrap();
        kill_process(pid, Signal::HUP).unwrap();
    }
}

fn text(port: u16, config: &str) -> String {
    format!("{config}\n[network]\nlisten = [\"127.0.0.1\"]\nport = {port}\n")
}

fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(key, by)| ((*key).to_owned(), (*by).to_owned())).collect()
}

const EXTRA: &str = "[runtimes.extra]\nimage = \"agent:1\"\nenv = { KEY = \"hunter2\" }";
const CREATE: [&str; 5] = ["create", "one", "--runtime", "extra", "--no-wait"];

#[test]
fn reload_adds_runtime_from_changed_file() {
    let served = Served::start("");
    assert_eq!(served.doctor()["verdict"], "ok", "a value differs although the file was not changed");
    served.write(EXTRA);

    let refused = served.run(&CREATE);
    assert_eq!(refused.code, 2, "{}", refused.transcript());
    for part in ["the runtime `extra` is in the configuration file", "run `ostler reload`"] {
        assert!(refused.stderr.contains(part), "`{part}` is missing: {}", refused.transcript());
    }
    let unknown = served.run(&["create", "one", "--runtime", "other", "--no-wait"]);
    for part in ["runtime `other` is not configured", "agent, plain", "add `[runtimes.other]`"] {
        assert!(unknown.stderr.contains(part), "`{part}` is missing: {}", unknown.transcript());
    }
    assert_eq!(served.differences(), owned(&[("runtimes.extra", "reload")]));
    let check = served.run(&["config", "check"]);
    let expected = "the running daemon has other values for runtimes.extra: `ostler reload` applies them\n";
    assert!(check.code == 0 && check.stdout.ends_with(expected), "{}", check.transcript());
    assert_eq!(served.doctor()["verdict"], "warn", "{}", served.doctor());

    let reloaded = served.run(&["reload"]);
    insta::assert_snapshot!("reload", reloaded.transcript());
    assert_eq!(served.differences(), [], "the daemon still differs from the file");
    assert_eq!(served.doctor()["verdict"], "ok", "{}", served.doctor());
    let created = served.run(&CREATE);
    assert_eq!(created.code, 0, "{}", created.transcript());
    assert!(!served.log().contains("hunter2"), "the log contains the value of a variable:\n{}", served.log());

    let again = served.run(&["reload"]);
    assert_eq!(again.stdout, "nothing has changed, file: [HOME]/config.toml\n", "{}", again.transcript());
}

#[test]
fn reload_lists_settings_that_need_a_daemon_restart() {
    let served = Served::start("[sweep]\nunknown_grace = \"7m\"");
    served.write("ports = \"25000-25100\"\n[sweep]\nunknown_grace = \"8m\"\n[access]\nroot_siblings = false");
    insta::assert_snapshot!("reload_waiting", served.run(&["reload"]).transcript());
    assert_eq!(served.differences(), owned(&[("ports", "restart")]));
    assert!(
        served.doctor()["advice"].as_str().unwrap().contains("restart the daemon"),
        "{}",
        served.doctor()
    );
    let shown = served.run(&["config", "show"]).stdout;
    let last = shown.lines().last().unwrap();
    let cells: Vec<_> = last.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
    assert_eq!(cells, ["ports", "\"21000-28999\"", "\"25000-25100\"", "a restart of the daemon"], "{shown}");
}

#[test]
fn reload_changes_nothing_when_the_file_has_an_error() {
    let served = Served::start("");
    // The command itself reads a valid file, so that only the daemon can refuse its own, invalid file.
    let good = served.home.path().join("good.toml");
    fs::write(&good, text(served.port, "")).unwrap();
    served.write(&format!("{EXTRA}\n[sweep]\nunkown_grace = \"7m\"\nabsence_grace = \"1m\""));
    let refused = served.run_with(&good, &["reload"]);
    assert_eq!(refused.code, 2, "{}", refused.transcript());
    for part in ["configuration not reloaded", "config.toml:5: unknown key `sweep.unkown_grace`"] {
        assert!(refused.stderr.contains(part), "`{part}` is missing: {}", refused.transcript());
    }
    let doctor = served.run_with(&good, &["doctor"]);
    assert!(doctor.stdout.contains("config.toml:5"), "{}", doctor.transcript());
    let created = served.run_with(&good, &CREATE);
    assert!(created.stderr.contains("runtime `extra` is not configured"), "{}", created.transcript());

    fs::remove_file(served.file()).unwrap();
    let refused = served.run_with(&good, &["reload"]);
    assert!(refused.code == 2 && refused.stderr.contains("config.toml"), "{}", refused.transcript());

    served.write(EXTRA);
    assert_eq!(served.run(&["reload"]).code, 0, "a corrected file is not applied");
}

/// A file given as `--config <(generate)` is a pipe, which is empty when it is read a second time.
#[test]
fn reload_refuses_pipe_as_config_file() {
    let served = Served::start(EXTRA);
    let good = served.home.path().join("good.toml");
    fs::write(&good, text(served.port, EXTRA)).unwrap();
    fs::remove_file(served.file()).unwrap();
    assert!(Command::new("mkfifo").arg(served.file()).status().unwrap().success());
    let refused = served.run_with(&good, &["reload"]);
    assert!(refused.code == 2 && refused.stderr.contains("not a regular file"), "{}", refused.transcript());
    let doctor = served.run_with(&good, &["doctor"]);
    assert!(doctor.stdout.contains("not a regular file"), "{}", doctor.transcript());
    let created = served.run_with(&good, &CREATE);
    assert_eq!(created.code, 0, "the runtime is not configured any more: {}", created.transcript());
}

#[test]
fn config_show_reports_that_daemon_reads_a_different_file() {
    let served = Served::start("[sweep]\nunknown_grace = \"7m\"");
    let other = served.home.path().join("other.toml");
    fs::write(&other, text(served.port, "[sweep]\nunknown_grace = \"8m\"")).unwrap();
    let shown = served.run_with(&other, &["config", "show"]).stdout;
    let last = shown.lines().last().unwrap();
    assert!(last.starts_with("sweep.unknown_grace"), "{shown}");
    assert!(
        last.ends_with("the daemon reads [HOME]/config.toml, with its own environment and flags)"),
        "{shown}"
    );
    assert_eq!(served.differences(), [], "the daemon differs from its own file");
}

#[test]
fn sighup_reloads_the_configuration() {
    let served = Served::start("[log]\nlevel = \"error\"");
    served.write(&format!("{EXTRA}\n[log]\nlevel = \"info\""));
    served.hangup();
    wait_until("the daemon has reloaded", || served.differences().is_empty());
    let log = served.log();
    for part in ["configuration reloaded", "runtimes.extra", "log.level"] {
        assert!(log.contains(part), "`{part}` is missing in the log:\n{log}");
    }
    served.write("[log]\nlevel = 7");
    served.hangup();
    wait_until("the log contains the reason", || served.log().contains("config.toml:2: `log.level`"));
    assert!(served.log().contains("configuration not reloaded"), "{}", served.log());
}

#[test]
fn sighup_stops_daemon_after_its_terminal_was_closed() {
    let mut terminal = None;
    let mut served = Served::begin("", |command, _| {
        let opened = Terminal::open(80);
        let child = opened.run(command);
        terminal = Some(opened);
        child
    });
    served.write(EXTRA);
    served.hangup();
    wait_until("the daemon has reloaded", || served.differences().is_empty());
    drop(terminal);
    served.hangup();
    let mut ended = None;
    wait_until("the daemon has exited", || {
        ended = served.daemon.try_wait().unwrap();
        ended.is_some()
    });
    assert!(ended.unwrap().success(), "the daemon did not exit as on SIGTERM: {ended:?}");
}
