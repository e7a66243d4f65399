//! The real `ostler` binary on the real Podman: a site of its own per test.
//!
//! A [`Site`] is a data directory with its configuration; it outlives the daemons that serve it, so a
//! test can kill one and start the next. Dropping the site ends the daemon and removes what carries its
//! instance's label, and nothing else.

#![allow(clippy::disallowed_methods, reason = "real processes take real time")]

use std::{
    fs::{self, File},
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use super::podman::{self, Cleanup};

/// How long anything a test waits for may take on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_mins(2);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What came of a command.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Said {
    /// The output of a command that succeeded.
    #[track_caller]
    pub(crate) fn well(self) -> String {
        assert_eq!(self.code, 0, "the command failed:\n{}\n{}", self.stdout, self.stderr);
        self.stdout
    }
}

/// A data directory, its configuration, and the daemon that serves it, if one does.
pub(crate) struct Site {
    directory: TempDir,
    engine_socket: PathBuf,
    /// Where the configuration names none: ports of its own. What is free at a look may be taken by
    /// another site's container at the start.
    ports: Option<String>,
    /// Whom ostler runs as, where not whoever runs the tests.
    user: Option<u32>,
    daemon: Option<Child>,
    cleanups: Vec<Cleanup>,
}

impl Site {
    /// A site on this process's Podman service, with `config` (TOML) on top of short graces.
    pub(crate) fn new(config: &str) -> Self {
        Self::on(podman::socket_path(), config)
    }

    /// A site on another socket, such as a fault proxy's.
    pub(crate) fn on(engine_socket: &Path, config: &str) -> Self {
        podman::image();
        let directory = tempfile::Builder::new().prefix("ostler-site-").tempdir().expect("a temp directory");
        fs::write(directory.path().join("config.toml"), config).expect("the config is written");
        let ports = (!config.contains("ports")).then(own_ports);
        let engine_socket = engine_socket.to_owned();
        Self { directory, engine_socket, ports, user: None, daemon: None, cleanups: Vec::new() }
    }

    /// Runs daemon and commands as another user from now on, which takes root.
    pub(crate) fn run_as(&mut self, uid: u32) {
        let place = self.directory.path();
        // The one that cargo built may lie where that user may not go.
        fs::copy(env!("CARGO_BIN_EXE_ostler"), place.join("ostler")).expect("the binary is copied");
        for path in [place.to_owned(), place.join("config.toml"), place.join("ostler")] {
            chown(path, Some(uid), Some(uid)).expect("root may give files away");
        }
        self.user = Some(uid);
    }

    /// The configuration and the data directory's parent: everything the site has on disk.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Everything every daemon of this site wrote to its log.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("serve.log")).unwrap_or_default()
    }

    /// An `ostler` command of this site.
    pub(crate) fn command(&self) -> Command {
        let mut command = match self.user {
            None => Command::new(env!("CARGO_BIN_EXE_ostler")),
            Some(uid) => {
                let mut command = Command::new(self.directory.path().join("ostler"));
                command.uid(uid).gid(uid).current_dir("/");
                command
            }
        };
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("OSTLER_")) {
            command.env_remove(name);
        }
        command
            .env("OSTLER_DATA_DIR", self.data_dir())
            .env("OSTLER_RUNTIME_DIR", self.directory.path().join("run"))
            .env("OSTLER_CONFIG", self.directory.path().join("config.toml"))
            .env("OSTLER_ENGINE_SOCKET", format!("unix://{}", self.engine_socket.display()))
            .env("NO_COLOR", "1");
        if let Some(ports) = &self.ports {
            command.env("OSTLER_PORTS", ports);
        }
        command
    }

    /// Starts a daemon and waits until it answers.
    #[track_caller]
    pub(crate) fn serve(&mut self) -> &mut Self {
        self.try_serve().expect("the daemon starts");
        self
    }

    /// Starts a daemon; what it wrote when it ended at once instead.
    pub(crate) fn try_serve(&mut self) -> Result<(), String> {
        let log = File::options().create(true).append(true).open(self.directory.path().join("serve.log"));
        let log = log.expect("the log opens");
        let before = self.log().len();
        let mut daemon = self
            .command()
            .arg("serve")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the binary starts");
        let begun = Instant::now();
        loop {
            if daemon.try_wait().expect("a child can be asked").is_some() {
                return Err(self.log()[before..].to_owned());
            }
            if self.ostler(["ls", "--json"]).code == 0 {
                break;
            }
            assert!(begun.elapsed() < PATIENCE, "the daemon does not answer:\n{}", self.log());
            thread::sleep(LOOK_EVERY);
        }
        self.daemon = Some(daemon);
        self.remember_instance();
        Ok(())
    }

    fn remember_instance(&mut self) {
        let instance = self.instance();
        self.cleanups.push(
            Cleanup::of_label(format!("ostler.instance={instance}")).and_name(format!("ostler-{instance}")),
        );
    }

    /// The identity, from the mirror file.
    #[track_caller]
    pub(crate) fn instance(&self) -> String {
        let text = fs::read_to_string(self.data_dir().join("instance.json")).expect("the mirror is there");
        let mirror: Value = serde_json::from_str(&text).expect("the mirror is JSON");
        mirror["instance"].as_str().expect("the mirror names the instance").to_owned()
    }

    /// The running daemon's process id.
    #[track_caller]
    pub(crate) fn pid(&self) -> u32 {
        self.daemon.as_ref().expect("a daemon runs").id()
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().expect("the daemon is killed");
            daemon.wait().expect("the daemon ends");
        }
    }

    /// Waits for a daemon that somebody else kills.
    #[track_caller]
    pub(crate) fn wait_for_end(&mut self) {
        let mut daemon = self.daemon.take().expect("a daemon runs");
        until("the daemon ends", || daemon.try_wait().expect("a child can be asked").map(drop));
    }

    /// Ends the daemon as systemd would.
    #[track_caller]
    pub(crate) fn stop(&mut self) {
        let Some(daemon) = &self.daemon else { return };
        let pid = rustix::process::Pid::from_raw(i32::try_from(daemon.id()).expect("a pid")).expect("a pid");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("the daemon is signalled");
        self.wait_for_end();
    }

    /// Runs an `ostler` command to its end.
    pub(crate) fn ostler<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Said {
        let output = self.command().args(arguments).stdin(Stdio::null()).output().expect("the binary runs");
        Said {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs an `ostler` command and reads its JSON.
    #[track_caller]
    pub(crate) fn json<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Value {
        let said = self.ostler(arguments.into_iter().chain(["--json"])).well();
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("no JSON ({error}): {said}"))
    }

    /// Makes a workspace of the tests' image that sleeps, and waits until it is online.
    #[track_caller]
    pub(crate) fn create(&self, name: &str, more: &[&str]) -> Value {
        let mut arguments = vec!["create", name, "--image", podman::image()];
        arguments.extend(more);
        arguments.extend(["--", "sh", "-c", "trap 'exit 0' TERM; while :; do sleep 3600 & wait; done"]);
        self.ostler(arguments).well();
        self.show(name)
    }

    /// A workspace as `show --json` tells it.
    #[track_caller]
    pub(crate) fn show(&self, name: &str) -> Value {
        self.json(["show", name])
    }

    /// Waits until a workspace has this status.
    #[track_caller]
    pub(crate) fn until_status(&self, name: &str, status: &str) -> Value {
        until(&format!("{name} is {status}\n{}", self.ostler(["why", name]).stdout), || {
            let said = self.ostler(["show", name, "--json"]);
            let shown: Value = serde_json::from_str(&said.stdout).ok()?;
            (shown["status"] == status).then_some(shown)
        })
    }

    /// Runs one pass now and answers its run.
    #[track_caller]
    pub(crate) fn sweep(&self, pass: &str) -> Value {
        self.json(["sweep", "run", pass])[0].clone()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            eprintln!("the daemon's log:\n{}", self.log());
        }
    }
}

/// A few host ports that no other site of this process is given, nor one of another process, mostly.
fn own_ports() -> String {
    static SITES: AtomicU32 = AtomicU32::new(0);
    const EACH: u32 = 25;
    const BLOCKS: u32 = 320;
    let block = (std::process::id() * 37 + SITES.fetch_add(1, Ordering::Relaxed)) % BLOCKS;
    format!("{}-{}", 21_000 + block * EACH, 21_000 + block * EACH + EACH - 1)
}

/// Waits until something is so.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "waited in vain until {what}");
        thread::sleep(LOOK_EVERY);
    }
}
