//! The real `ostler` binary on the real Podman, with a site of its own per test.
//!
//! A [`Site`] is a data directory with its configuration. It outlives the daemons that serve it, so a test can kill
//! one and start the next. Dropping the site ends the daemon and removes the objects with its instance's label, and
//! no others.

#![allow(clippy::disallowed_methods, reason = "real processes take real time")]

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use ostler::domain::token::Token;
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;
use tempfile::TempDir;

use super::{
    http::{Answer, Request},
    podman::{self, Cleanup},
    ports::PortWindow,
};

/// Limit for every wait; generous, because the machine may be busy with other work.
const PATIENCE: Duration = Duration::from_mins(3);
const CHECK_INTERVAL: Duration = Duration::from_millis(100);
const DATABASE_FILES: [&str; 3] = ["ostler.db", "ostler.db-wal", "ostler.db-shm"];

/// Exit code and output of a command; -1 if a signal ended it.
#[derive(Debug)]
pub(crate) struct CommandOutput {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl CommandOutput {
    pub(crate) fn of(output: &Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The standard output of a command; panics unless it succeeded.
    #[track_caller]
    pub(crate) fn well(self) -> String {
        assert_eq!(self.code, 0, "the command failed:\n{}\n{}", self.stdout, self.stderr);
        self.stdout
    }
}

/// A data directory, its configuration, and the daemon that serves it, if one runs.
pub(crate) struct Site {
    directory: TempDir,
    engine_socket: PathBuf,
    /// Whether the configuration sets `ports` itself.
    names_ports: bool,
    /// User id that ostler runs as; `None` means the user of the test process.
    user: Option<u32>,
    /// Additional environment variables of its daemons.
    environment: BTreeMap<&'static str, String>,
    daemon: Option<Child>,
    cleanups: Vec<Cleanup>,
    /// Ports of every daemon of the site. They stay the same, because a container gets its `PLATFORM_URL` only once.
    /// This is the last field, so that the ports are released after the containers are removed.
    ports: PortWindow,
}

impl Site {
    /// A site on this process's Podman service, with `config` (TOML) as its configuration file.
    pub(crate) fn new(config: &str) -> Self {
        Self::on(podman::socket_path(), config)
    }

    /// A site on another socket, such as that of a fault proxy.
    pub(crate) fn on(engine_socket: &Path, config: &str) -> Self {
        podman::image();
        let directory = tempfile::Builder::new().prefix("ostler-site-").tempdir().expect("a temp directory");
        fs::write(directory.path().join("config.toml"), config).expect("the config is written");
        let names_ports = config.contains("ports");
        Self {
            directory,
            engine_socket: engine_socket.to_owned(),
            ports: PortWindow::take(),
            names_ports,
            user: None,
            environment: BTreeMap::new(),
            daemon: None,
            cleanups: Vec::new(),
        }
    }

    /// Runs daemon and commands as another user from now on. Needs root.
    pub(crate) fn run_as(&mut self, uid: u32) {
        let under = self.directory.path();
        // That user may have no access to the binary that cargo built.
        fs::copy(env!("CARGO_BIN_EXE_ostler"), under.join("ostler")).expect("the binary is copied");
        for path in [under.to_owned(), under.join("config.toml"), under.join("ostler")] {
            chown(path, Some(uid), Some(uid)).expect("root may change the owner");
        }
        self.user = Some(uid);
    }

    /// The parent of the data directory, with all files of the site, including the configuration.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// The logs of all daemons of this site so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("serve.log")).unwrap_or_default()
    }

    /// An `ostler` command with this site's environment.
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
            .env("OSTLER_NETWORK_PORT", self.ports.network().to_string())
            .env("NO_COLOR", "1");
        if !self.names_ports {
            command.env("OSTLER_PORTS", self.ports.range());
        }
        command
    }

    /// Sets an environment variable of daemons from the next start on; `None` removes it.
    #[allow(dead_code, reason = "only campaigns set variables")]
    pub(crate) fn set_daemon_env(&mut self, name: &'static str, value: Option<String>) {
        match value {
            Some(value) => drop(self.environment.insert(name, value)),
            None => drop(self.environment.remove(name)),
        }
    }

    /// Replaces the configuration; takes effect at the next start.
    pub(crate) fn configure(&self, config: &str) {
        fs::write(self.directory.path().join("config.toml"), config).expect("the config is written");
    }

    /// Deletes the database and its log files, as a user may do with a damaged database.
    #[track_caller]
    pub(crate) fn lose_database(&self) {
        assert!(self.data_dir().join(DATABASE_FILES[0]).exists(), "there is no database to delete");
        for file in DATABASE_FILES {
            // A database that was closed cleanly has no other files.
            let _absent = fs::remove_file(self.data_dir().join(file));
        }
    }

    /// Copies the database, as a backup does.
    #[track_caller]
    pub(crate) fn copy_database(&self) -> TempDir {
        let copy = tempfile::tempdir().expect("a temp directory");
        let into = copy.path().join(DATABASE_FILES[0]);
        self.database(OpenFlags::SQLITE_OPEN_READ_ONLY)
            .execute("VACUUM INTO ?1", [into.to_str().expect("temporary paths are UTF-8")])
            .expect("the database is copied");
        copy
    }

    /// Replaces the database with a copy.
    #[track_caller]
    pub(crate) fn put_back(&self, copy: &TempDir) {
        self.lose_database();
        let file = DATABASE_FILES[0];
        fs::copy(copy.path().join(file), self.data_dir().join(file)).expect("the copy is restored");
    }

    /// Opens a second connection to the database, in addition to the daemon's own.
    #[track_caller]
    pub(crate) fn database(&self, flags: OpenFlags) -> Connection {
        let connection = Connection::open_with_flags(self.data_dir().join(DATABASE_FILES[0]), flags);
        let connection = connection.expect("the database opens");
        connection.busy_timeout(Duration::from_secs(10)).expect("a timeout is set");
        connection
    }

    /// Deletes a workspace's row. The registry then no longer knows the workspace's container and volumes.
    #[track_caller]
    pub(crate) fn forget_row(&self, name: &str) {
        let database = self.database(OpenFlags::SQLITE_OPEN_READ_WRITE);
        database.pragma_update(None, "foreign_keys", true).expect("foreign keys are on");
        let deleted = database.execute("DELETE FROM workspaces WHERE name = ?1", [name]);
        assert_eq!(deleted.expect("the row can be deleted"), 1, "there is no row of {name}");
    }

    /// Whether the registry accepts this token for this workspace.
    #[track_caller]
    pub(crate) fn is_valid(&self, name: &str, token: &str) -> bool {
        let digest = Token::parse(token).expect("the text is not a token").digest();
        self.database(OpenFlags::SQLITE_OPEN_READ_ONLY)
            .query_row(
                "SELECT EXISTS (SELECT 1 FROM tokens t JOIN workspaces w ON w.key = t.workspace
                                WHERE w.name = ?1 AND w.status <> 'removed' AND t.digest = ?2
                                  AND t.revoked_at IS NULL)",
                rusqlite::params![name, digest.0],
                |row| row.get(0),
            )
            .expect("the registry answers")
    }

    /// The token in a workspace's config volume, as its agent reads it.
    #[track_caller]
    pub(crate) fn token_in_volume(&self, name: &str) -> String {
        let row = self.show(name);
        let container = row["container_id"].as_str().expect("it has a container");
        podman::file_of(container, "/configs/.auth_token")
    }

    /// Whether the registry accepts the token in a workspace's config volume.
    #[track_caller]
    pub(crate) fn live_instance_token_matches(&self, name: &str) -> bool {
        self.is_valid(name, &self.token_in_volume(name))
    }

    /// Starts a daemon and waits until it answers.
    #[track_caller]
    pub(crate) fn serve(&mut self) -> &mut Self {
        self.try_serve().expect("the daemon starts");
        self
    }

    /// Starts a daemon without waiting for it.
    pub(crate) fn begin_to_serve(&mut self) {
        let log = File::options().create(true).append(true).open(self.directory.path().join("serve.log"));
        let log = log.expect("the log opens");
        let daemon = self
            .command()
            .arg("serve")
            .envs(&self.environment)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the binary starts");
        self.daemon = Some(daemon);
    }

    /// Starts a daemon and waits until it answers; `Err` holds its log if it ended instead.
    pub(crate) fn try_serve(&mut self) -> Result<(), String> {
        let before = self.log().len();
        self.begin_to_serve();
        let begun = Instant::now();
        loop {
            if self.has_ended().is_some() {
                self.daemon = None;
                return Err(self.log()[before..].to_owned());
            }
            if self.answers() {
                break;
            }
            assert!(begun.elapsed() < PATIENCE, "the daemon does not answer:\n{}", self.log());
            thread::sleep(CHECK_INTERVAL);
        }
        self.remember_instance();
        Ok(())
    }

    /// Whether a daemon answers commands.
    pub(crate) fn answers(&self) -> bool {
        self.ostler(["ls", "--json"]).code == 0
    }

    /// Exit status of the daemon that was started last, if it has ended.
    #[track_caller]
    pub(crate) fn has_ended(&mut self) -> Option<ExitStatus> {
        self.daemon
            .as_mut()
            .expect("a daemon was started")
            .try_wait()
            .expect("the child's status can be read")
    }

    fn remember_instance(&mut self) {
        let instance = self.instance();
        self.cleanups.push(
            Cleanup::of_label(format!("ostler.instance={instance}")).and_name(format!("ostler-{instance}")),
        );
    }

    /// The instance id, from the mirror file.
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

    /// Waits for the exit of a daemon that is killed elsewhere.
    #[track_caller]
    pub(crate) fn wait_for_end(&mut self) {
        let mut daemon = self.daemon.take().expect("a daemon runs");
        until("the daemon ends", || daemon.try_wait().expect("the child's status can be read").map(drop));
    }

    /// Ends the daemon by SIGTERM, as systemd does.
    #[track_caller]
    pub(crate) fn stop(&mut self) {
        let Some(daemon) = &self.daemon else { return };
        let pid = rustix::process::Pid::from_raw(i32::try_from(daemon.id()).expect("a pid")).expect("a pid");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("the daemon is signalled");
        self.wait_for_end();
    }

    /// A request as admin, over the local socket.
    #[track_caller]
    pub(crate) fn admin(&self, method: &str, path: &str, body: Value) -> Answer {
        Request { method, path, token: None, caller: None, body }
            .over_socket(&self.data_dir().join("ostler.sock"))
    }

    /// A request as a workspace, over TCP, with its token if there is one.
    #[track_caller]
    pub(crate) fn agent(
        &self,
        method: &str,
        path: &str,
        caller: &str,
        token: Option<&str>,
        body: Value,
    ) -> Answer {
        Request { method, path, token, caller: Some(caller), body }.over_tcp(self.network_port())
    }

    /// Every event from now on, in the order of commits.
    #[track_caller]
    pub(crate) fn event_stream(&self) -> impl Iterator<Item = Value> + use<> {
        let request =
            Request { method: "GET", path: "/events/stream", token: None, caller: None, body: Value::Null };
        let lines = request.lines_over_socket(&self.data_dir().join("ostler.sock"));
        lines.filter_map(|line| serde_json::from_str(line.strip_prefix("data:")?.trim()).ok())
    }

    /// The TCP port on which the daemon listens for agents.
    pub(crate) fn network_port(&self) -> u16 {
        self.ports.network()
    }

    /// Events of a workspace, newest first.
    #[track_caller]
    pub(crate) fn events_of(&self, id: &str) -> Vec<Value> {
        let answer = self.admin("GET", &format!("/events/{id}"), Value::Null);
        answer.json().as_array().expect("events are a list").clone()
    }

    /// Runs an `ostler` command to its end.
    pub(crate) fn ostler<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> CommandOutput {
        CommandOutput::of(
            &self.command().args(arguments).stdin(Stdio::null()).output().expect("the binary runs"),
        )
    }

    /// Runs an `ostler` command and reads its JSON.
    #[track_caller]
    pub(crate) fn json<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Value {
        let output = self.ostler(arguments.into_iter().chain(["--json"])).well();
        serde_json::from_str(&output).unwrap_or_else(|error| panic!("invalid JSON ({error}): {output}"))
    }

    /// Creates a workspace with an idle container, and waits until it is online.
    #[track_caller]
    pub(crate) fn create(&self, name: &str, more: &[&str]) -> Value {
        let mut arguments = vec!["create", name, "--image", podman::image()];
        arguments.extend(more);
        arguments.extend(["--", "sh", "-c", "trap 'exit 0' TERM; while :; do sleep 3600 & wait; done"]);
        self.ostler(arguments).well();
        self.show(name)
    }

    /// Creates workspaces in parallel, each below the parent it names, and waits until all are online.
    #[track_caller]
    pub(crate) fn create_all(&self, named: &[(&str, Option<&str>)]) {
        for (name, parent) in named {
            let mut more = vec!["--no-wait"];
            more.extend(parent.iter().flat_map(|parent| ["--parent", parent]));
            self.create(name, &more);
        }
        for (name, _) in named {
            self.until_status(name, "online");
        }
    }

    /// A workspace in the form of `show --json`.
    #[track_caller]
    pub(crate) fn show(&self, name: &str) -> Value {
        self.json(["show", name])
    }

    /// Waits until a workspace has this status.
    #[track_caller]
    pub(crate) fn until_status(&self, name: &str, status: &str) -> Value {
        until(&format!("{name} is {status}\n{}", self.ostler(["why", name]).stdout), || {
            let output = self.ostler(["show", name, "--json"]);
            let row: Value = serde_json::from_str(&output.stdout).ok()?;
            (row["status"] == status).then_some(row)
        })
    }

    /// Runs one pass now and returns the report of its run.
    #[track_caller]
    pub(crate) fn sweep(&self, pass: &str) -> Value {
        let output = self.ostler(["sweep", "run", pass, "--json"]);
        let runs: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|error| {
            panic!("no run of {pass} ({error}): {} {}", output.stdout, output.stderr)
        });
        runs[0].clone()
    }

    /// Runs every pass now and returns the reports of their runs.
    #[track_caller]
    pub(crate) fn sweep_all(&self) -> Value {
        let output = self.ostler(["sweep", "run", "--json"]);
        serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("no runs ({error}): {output:?}"))
    }

    /// Runs a pass again and again until `done` accepts the report of a run; returns that report.
    #[track_caller]
    pub(crate) fn sweep_until(&self, pass: &str, done: impl Fn(&Value) -> bool) -> Value {
        until(&format!("{pass} did its work"), || {
            let run = self.sweep(pass);
            done(&run).then_some(run)
        })
    }

    /// The entries of the trash.
    #[track_caller]
    pub(crate) fn trash(&self) -> Vec<Value> {
        self.json(["trash", "ls"]).as_array().expect("the trash is a list").clone()
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

/// Calls `poll` until it returns a value; panics when the time limit has passed.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut poll: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = poll() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "timed out waiting until {what}");
        thread::sleep(CHECK_INTERVAL);
    }
}

/// Whether the pass of a run requires the engine. The other passes use only the store and run without it.
pub(crate) fn requires_engine(run: &Value) -> bool {
    let name = run["pass"].as_str().expect("a run names its pass");
    let pass =
        ostler::sweep::all().into_iter().find(|pass| pass.name() == name).expect("there is such a pass");
    pass.requires() == ostler::sweep::Requirement::Engine
}
