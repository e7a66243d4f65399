//! Configuration: defaults, then a TOML file, then `OSTLER_*` variables, then flags, as validated values.
//!
//! One table, `keys::KEYS`, lists every key once: its path in the file, its documentation and the field that it sets.
//! The file reader, the environment, `config show` and the template all use this table, so they always support the same
//! keys. Deserialising with a serde derive would need no table, but its errors could not name the file, the line and
//! the nearest valid key.
//!
//! All problems of a file are collected and reported together, so that an operator can fix them in one edit.

mod difference;
mod keys;
mod template;
mod value;

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::domain::{
    budget::RestartBudget,
    ports::PortRange,
    runtime::{AGENT, PLAIN, Runtime},
};
pub use difference::{Difference, differences};
use keys::{KEYS, RUNTIME_KEYS};
pub use template::template;

/// Maximum length of the path of a unix socket, in bytes: `sun_path` has 108 bytes, and the last of them must be zero.
const SOCKET_PATH_MAX: usize = 107;

/// Environment variable that names the configuration file.
const FILE_VARIABLE: &str = "OSTLER_CONFIG";

/// All settings, validated.
#[derive(Clone, PartialEq)]
pub struct Config {
    /// The file that was read; `None` if there is none.
    pub file: Option<PathBuf>,
    /// Directory of the registry: database, mirror, lock and socket.
    pub data_dir: PathBuf,
    /// Directory of the locks that must not survive a reboot.
    pub runtime_dir: PathBuf,
    /// Connection to the engine, and limits on its use.
    pub engine: EngineConfig,
    /// How agents reach ostler.
    pub network: NetworkConfig,
    /// Host ports that ostler assigns to containers.
    pub ports: PortRange,
    /// Limits on messages between workspaces, and on how often workspaces may wake each other.
    pub access: AccessConfig,
    /// Agents that run outside ostler's containers.
    pub external: ExternalConfig,
    /// Limits on the restarts after unexpected exits.
    pub restart: RestartBudget,
    /// Grace periods, retention times and intervals of the sweeps.
    pub sweep: SweepConfig,
    /// Runtimes by name; always contains `plain` and `agent`.
    pub runtimes: BTreeMap<String, Runtime>,
    /// Filter and format of the log.
    pub log: LogConfig,
}

/// Values of the section `[engine]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// Address of Podman's socket. If `None`, ostler looks for it at the usual paths.
    pub socket: Option<String>,
    /// Deadline of a call to the engine that only reads.
    pub read_deadline: Duration,
    /// Deadline of a call to the engine that changes something.
    pub change_deadline: Duration,
    /// Deadline of pulling an image.
    pub pull_deadline: Duration,
    /// Maximum number of concurrent container starts; 0 means the number of processors.
    pub concurrent_starts: u32,
    /// Size in bytes at which Podman discards a container's log and starts a new one.
    pub log_size: u64,
}

impl EngineConfig {
    /// Maximum number of concurrent container starts, at least 1.
    #[must_use]
    pub fn concurrent_starts(&self) -> usize {
        match self.concurrent_starts {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            number => usize::try_from(number).unwrap_or(usize::MAX),
        }
    }
}

/// Values of the section `[network]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkConfig {
    /// Whether containers are isolated from each other.
    pub isolate: bool,
    /// TCP port for agents.
    pub port: u16,
    /// Addresses to listen on. If empty, ostler listens on loopback and the gateway of the workspaces' network.
    pub listen: Vec<IpAddr>,
    /// URL that agents use to reach ostler; `None` if ostler determines it.
    pub platform_url: Option<String>,
}

/// Values of the section `[access]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessConfig {
    /// Whether workspaces without a parent may exchange messages.
    pub root_siblings: bool,
    /// Maximum number of times per hour that one workspace may wake another.
    pub wakes_per_hour: u32,
}

/// Values of the section `[external]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalConfig {
    /// Whether external agents may have private addresses.
    pub allow_private: bool,
    /// Whether external agents may run on this machine.
    pub allow_loopback: bool,
}

/// Values of the section `[sweep]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SweepConfig {
    /// How long a container must be absent before its instance tokens are revoked.
    pub absence_grace: Duration,
    /// How long a container or volume without a row must be listed before it is moved to the trash.
    pub unknown_grace: Duration,
    /// How long entries stay in the trash.
    pub trash_retention: Duration,
    /// How long events are kept.
    pub event_retention: Duration,
    /// Interval between listings of all containers. They find changes whose events were missed.
    pub check_interval: Duration,
}

/// Values of the section `[log]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Filter in the syntax of `tracing`, such as `info` or `info,ostler::sweep=debug`.
    pub level: String,
    /// Format of a log line.
    pub format: LogFormat,
}

/// Format of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Pretty on a terminal, JSON otherwise.
    Auto,
    /// Human-readable text.
    Pretty,
    /// One JSON object per line.
    Json,
}

impl Config {
    /// The default configuration with these two directories.
    #[must_use]
    pub fn at(data_dir: PathBuf, runtime_dir: PathBuf) -> Self {
        Self {
            file: None,
            data_dir,
            runtime_dir,
            engine: EngineConfig {
                socket: None,
                read_deadline: Duration::from_secs(20),
                change_deadline: Duration::from_mins(1),
                pull_deadline: Duration::from_mins(30),
                concurrent_starts: 0,
                log_size: 10 << 20,
            },
            network: NetworkConfig { isolate: false, port: 7717, listen: Vec::new(), platform_url: None },
            access: AccessConfig { root_siblings: true, wakes_per_hour: 12 },
            external: ExternalConfig { allow_private: false, allow_loopback: false },
            restart: RestartBudget::default(),
            ports: PortRange { first: 21000, last: 28999 },
            sweep: SweepConfig {
                absence_grace: Duration::from_mins(5),
                unknown_grace: Duration::from_mins(10),
                trash_retention: Duration::from_hours(14 * 24),
                event_retention: Duration::from_hours(30 * 24),
                check_interval: Duration::from_secs(30),
            },
            runtimes: BTreeMap::from([
                (PLAIN.to_owned(), Runtime::plain()),
                (AGENT.to_owned(), Runtime::agent()),
            ]),
            log: LogConfig { level: "info".to_owned(), format: LogFormat::Auto },
        }
    }

    /// The default configuration with the usual directories of this platform.
    #[must_use]
    pub fn defaults() -> Self {
        Self::at(default_data_dir(), default_runtime_dir())
    }

    /// The socket on which the daemon serves the CLI.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.data_dir.join("ostler.sock")
    }
}

/// Shows only the names of the runtimes, because their environment variables may contain secrets.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("file", &self.file)
            .field("data_dir", &self.data_dir)
            .field("runtime_dir", &self.runtime_dir)
            .field("engine", &self.engine)
            .field("network", &self.network)
            .field("ports", &self.ports)
            .field("access", &self.access)
            .field("external", &self.external)
            .field("restart", &self.restart)
            .field("sweep", &self.sweep)
            .field("runtimes", &self.runtimes.keys().collect::<Vec<_>>())
            .field("log", &self.log)
            .finish()
    }
}

/// The configuration file that is used if neither a flag nor an environment variable names one.
#[must_use]
pub fn default_file() -> PathBuf {
    project_dirs()
        .map_or_else(|| "/etc/ostler/config.toml".into(), |dirs| dirs.config_dir().join("config.toml"))
}

fn default_data_dir() -> PathBuf {
    project_dirs().map_or_else(|| "/var/lib/ostler".into(), |dirs| dirs.data_dir().to_owned())
}

fn default_runtime_dir() -> PathBuf {
    let user = rustix::process::getuid();
    if user.is_root() {
        return "/run/ostler".into();
    }
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| Path::new(dir).is_absolute()) {
        Some(dir) => Path::new(&dir).join("ostler"),
        None => std::env::temp_dir().join(format!("ostler-{user}")),
    }
}

fn project_dirs() -> Option<directories::ProjectDirs> {
    directories::ProjectDirs::from("", "", "ostler")
}

/// Settings that take precedence over the file: environment variables and flags. The caller passes them, so that tests
/// need not change the environment.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// Value of the flag `--config`.
    pub file: Option<PathBuf>,
    /// Value of the flag `--data-dir`.
    pub data_dir: Option<PathBuf>,
    /// Environment variables; only `OSTLER_*` is read.
    pub env: Vec<(String, String)>,
}

impl Overrides {
    /// The file to read, and whether it was named explicitly.
    fn file(&self) -> (PathBuf, bool) {
        let named = self.file.clone().or_else(|| self.variable(FILE_VARIABLE).map(PathBuf::from));
        match named {
            Some(path) => (path, true),
            None => (default_file(), false),
        }
    }

    /// The file that is read, or that `config init` writes.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.file().0
    }

    fn variable(&self, name: &str) -> Option<&str> {
        self.env.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// A configuration, with the source of every value.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The validated values.
    pub config: Config,
    /// Every key with its effective value and its source, in the order of the template.
    pub settings: Vec<Setting>,
    /// Problems that do not prevent the use of the configuration, such as unknown environment variables.
    pub warnings: Vec<String>,
}

/// A key with its effective value and its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Name of the key, such as `sweep.unknown_grace`.
    pub key: String,
    /// The value in TOML syntax; `None` if unset.
    pub value: Option<String>,
    /// `default`, `file:LINE`, the name of an environment variable, or a flag.
    pub source: String,
}

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}", path.display())]
    Unreadable {
        /// Path of the file.
        path: PathBuf,
        /// Cause of the failure.
        source: io::Error,
    },
    /// Unknown keys or invalid values.
    #[error("{}", list(.0))]
    Invalid(Vec<Problem>),
}

fn list(problems: &[Problem]) -> String {
    match problems {
        [only] => only.to_string(),
        many => {
            let lines: Vec<_> = many.iter().map(Problem::to_string).collect();
            format!("the configuration has {} problems:\n  {}", many.len(), lines.join("\n  "))
        }
    }
}

/// One problem: the source of the value that causes it, and a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    origin: Origin,
    message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.origin, self.message)
    }
}

/// Source of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Origin {
    Default,
    File { path: PathBuf, line: usize },
    Variable(String),
    Flag(&'static str),
}

impl Origin {
    /// The short form for `config show`, which names the file once above the table.
    fn short(&self) -> String {
        match self {
            Self::File { line, .. } => format!("file:{line}"),
            Self::Default | Self::Variable(_) | Self::Flag(_) => self.to_string(),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

/// Reads and validates the configuration.
pub fn load(overrides: &Overrides) -> Result<Loaded, ConfigError> {
    gather(overrides)?.finish()
}

/// Path of the daemon's socket if [`load`] has failed. Commands that need only the socket use it: a mistake in the
/// configuration file must not prevent an operator from stopping a workspace. A key with an error counts as unset, and
/// so do all keys of an unreadable file. It is therefore possible that no socket exists at this path.
#[must_use]
pub fn socket_despite_errors(overrides: &Overrides) -> PathBuf {
    let loading = gather(overrides).unwrap_or_else(|_| {
        let mut loading = Loading::new(Config::defaults());
        loading.outside_the_file(overrides);
        loading
    });
    loading.config.socket()
}

fn gather(overrides: &Overrides) -> Result<Loading, ConfigError> {
    let mut loading = Loading::new(Config::defaults());
    let (path, asked_for) = overrides.file();
    if let Some(text) = read(&path, asked_for)? {
        loading.file(&path, &text);
        loading.config.file = Some(path);
    }
    loading.outside_the_file(overrides);
    loading.check_together();
    Ok(loading)
}

/// Reads the file. `None` if it does not exist and `asked_for` is false, which means that the operator did not name it.
fn read(path: &Path, asked_for: bool) -> Result<Option<String>, ConfigError> {
    match fs::read(path) {
        Ok(bytes) => match String::from_utf8(bytes) {
            Ok(text) => Ok(Some(text)),
            Err(error) => {
                let valid = error.utf8_error().valid_up_to();
                let line = error.as_bytes()[..valid].split(|byte| *byte == b'\n').count();
                let source = io::Error::new(io::ErrorKind::InvalidData, format!("line {line} is not UTF-8"));
                Err(ConfigError::Unreadable { path: path.to_owned(), source })
            }
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound && !asked_for => Ok(None),
        Err(source) => Err(ConfigError::Unreadable { path: path.to_owned(), source }),
    }
}

/// State of a configuration while it is read.
struct Loading {
    config: Config,
    origins: BTreeMap<String, Origin>,
    problems: Vec<Problem>,
    warnings: Vec<String>,
}

impl Loading {
    /// Applies the environment and the flags.
    fn outside_the_file(&mut self, overrides: &Overrides) {
        self.environment(&overrides.env);
        if let Some(dir) = &overrides.data_dir {
            self.data_dir_flag(dir);
        }
    }

    fn new(config: Config) -> Self {
        Self { config, origins: BTreeMap::new(), problems: Vec::new(), warnings: Vec::new() }
    }

    fn problem(&mut self, origin: Origin, message: String) {
        self.problems.push(Problem { origin, message });
    }

    fn file(&mut self, path: &Path, text: &str) {
        let file = File { path, text };
        match DeTable::parse(text) {
            Ok(document) => self.table("", document.get_ref(), &file),
            Err(error) => {
                let span = error.span().unwrap_or_default();
                // The text at the error is added to the message. In a long file, `duplicate key` alone would not be
                // enough to find the key.
                let what = match text.get(span.clone()).map(str::trim) {
                    Some(found) if !found.is_empty() && !found.contains('\n') => format!(": `{found}`"),
                    Some(_) | None => String::new(),
                };
                self.problem(file.origin(span.start), format!("invalid TOML: {}{what}", error.message()));
            }
        }
    }

    fn table(&mut self, prefix: &str, table: &DeTable<'_>, file: &File<'_>) {
        for (key, value) in table {
            let path = join(prefix, key.get_ref());
            let at = file.origin(key.span().start);
            if path == "runtimes" {
                self.runtimes(value, &at, file);
            } else if KEYS.iter().any(|known| known.path == path) {
                self.set(&path, value.get_ref(), file.origin(value.span().start));
            } else if !keys::is_section(&path) {
                let near = keys::advice(&path, prefix);
                self.problem(at, format!("unknown key `{path}`{near}"));
            } else if let Some(section) = value.get_ref().as_table() {
                self.table(&path, section, file);
            } else {
                self.problem(at, format!("`{path}` is a section: write its keys below a `[{path}]` line"));
            }
        }
    }

    fn runtimes(&mut self, value: &Spanned<DeValue<'_>>, at: &Origin, file: &File<'_>) {
        let Some(table) = value.get_ref().as_table() else {
            return self.problem(at.clone(), "`runtimes` is a section: write `[runtimes.NAME]`".to_owned());
        };
        for (name, value) in table {
            let at = file.origin(name.span().start);
            let name = name.get_ref().as_ref();
            match (keys::check_runtime_name(name), value.get_ref().as_table()) {
                (Err(why), _) => self.problem(at, why),
                (Ok(()), Some(keys)) => self.runtime(name, keys, file),
                (Ok(()), None) => self.problem(
                    at,
                    format!(
                        "`runtimes.{name}` is a section: write its keys below a `[runtimes.{name}]` line"
                    ),
                ),
            }
        }
    }

    fn runtime(&mut self, name: &str, table: &DeTable<'_>, file: &File<'_>) {
        let mut runtime = self.config.runtimes.remove(name).unwrap_or_else(Runtime::plain);
        for (key, value) in table {
            let path = format!("runtimes.{name}.{}", key.get_ref());
            let Some(known) = RUNTIME_KEYS.iter().find(|known| known.path == key.get_ref().as_ref()) else {
                let near = keys::runtime_advice(name, key.get_ref());
                self.problem(file.origin(key.span().start), format!("unknown key `{path}`{near}"));
                continue;
            };
            let origin = file.origin(value.span().start);
            match (known.slot)(&mut runtime).set(value.get_ref()) {
                Ok(()) => drop(self.origins.insert(path, origin)),
                Err(why) => self.problem(origin, format!("`{path}`: {why}")),
            }
        }
        self.config.runtimes.insert(name.to_owned(), runtime);
    }

    fn environment(&mut self, env: &[(String, String)]) {
        for (name, value) in env {
            if name == FILE_VARIABLE || !name.starts_with("OSTLER_") {
                continue;
            }
            match KEYS.iter().find(|key| key.variable() == *name) {
                Some(key) => {
                    let value = DeValue::String(value.into());
                    self.set(key.path, &value, Origin::Variable(name.clone()));
                }
                None => self
                    .warnings
                    .push(format!("unknown environment variable {name}{}", keys::variable_advice(name))),
            }
        }
    }

    fn data_dir_flag(&mut self, dir: &Path) {
        match std::path::absolute(dir) {
            Ok(dir) => {
                self.config.data_dir = dir;
                self.origins.insert("data_dir".to_owned(), Origin::Flag("--data-dir"));
            }
            Err(why) => self.problem(Origin::Flag("--data-dir"), why.to_string()),
        }
    }

    fn set(&mut self, path: &str, value: &DeValue<'_>, origin: Origin) {
        let Some(key) = KEYS.iter().find(|key| key.path == path) else { return };
        match (key.slot)(&mut self.config).set(value) {
            Ok(()) => drop(self.origins.insert(path.to_owned(), origin)),
            Err(why) => self.problem(origin, format!("`{path}`: {why}")),
        }
    }

    /// Checks that two settings do not conflict, and that the socket's path is not too long.
    fn check_together(&mut self) {
        let Config { ports, network, .. } = &self.config;
        if (ports.first..=ports.last).contains(&network.port) {
            let message = format!(
                "`network.port` {} is within `ports` {ports}, the range for containers: change one of them",
                network.port
            );
            let key = if self.origins.contains_key("network.port") { "network.port" } else { "ports" };
            self.problem(self.origin(key), message);
        }
        let socket = self.config.socket();
        let length = socket.as_os_str().len();
        if length > SOCKET_PATH_MAX {
            let message = format!(
                "`data_dir` is too long: the socket's path {} has {length} bytes, but the kernel allows at most \
                 {SOCKET_PATH_MAX}; choose a shorter directory",
                socket.display()
            );
            self.problem(self.origin("data_dir"), message);
        }
    }

    fn origin(&self, key: &str) -> Origin {
        self.origins.get(key).cloned().unwrap_or(Origin::Default)
    }

    fn finish(mut self) -> Result<Loaded, ConfigError> {
        if !self.problems.is_empty() {
            // The problems were found in the order of the keys' names. They are reported in the order of lines, because
            // operators read a file from the top.
            self.problems.sort_by_key(|problem| match problem.origin {
                Origin::File { line, .. } => line,
                Origin::Default | Origin::Variable(_) | Origin::Flag(_) => usize::MAX,
            });
            return Err(ConfigError::Invalid(self.problems));
        }
        let settings = self.settings();
        Ok(Loaded { config: self.config, settings, warnings: self.warnings })
    }

    fn settings(&mut self) -> Vec<Setting> {
        let values = difference::values(&mut self.config);
        let source = |key: &str| self.origin(key).short();
        values.into_iter().map(|(key, value)| Setting { source: source(&key), key, value }).collect()
    }
}

/// The file being read, for converting offsets to lines.
struct File<'a> {
    path: &'a Path,
    text: &'a str,
}

impl File<'_> {
    fn origin(&self, offset: usize) -> Origin {
        let before = self.text.as_bytes().iter().take(offset);
        let line = 1 + before.filter(|byte| **byte == b'\n').count();
        Origin::File { path: self.path.to_owned(), line }
    }
}

fn join(prefix: &str, key: &str) -> String {
    if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") }
}

#[cfg(test)]
mod tests;
