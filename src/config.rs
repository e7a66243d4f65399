//! Configuration: defaults, then a TOML file, then `OSTLER_*`, then flags, into plain validated values.
//!
//! One table, `keys::KEYS`, names every key once: its place in the file, its documentation and the
//! field it sets. The file reader, the environment, `config show` and the template are all read from
//! that table, so none of them can know a key that another does not. A derive would save the table and
//! lose what it is for: an error that names the file, the line and the nearest key that does exist.
//!
//! Every problem of a file is collected before the first is told: nobody should have to start a daemon
//! four times to mend four lines.

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

/// The longest path a unix socket can be bound to: `sun_path` has 108 bytes, the last one is a zero.
const SOCKET_PATH_MAX: usize = 107;

/// The variable that names the file.
const FILE_VARIABLE: &str = "OSTLER_CONFIG";

/// Everything that can be configured, validated.
#[derive(Clone, PartialEq)]
pub struct Config {
    /// The file it was read from; none when there is none.
    pub file: Option<PathBuf>,
    /// Where the registry lives: database, mirror, lock and socket.
    pub data_dir: PathBuf,
    /// Where the locks live that must not survive a reboot.
    pub runtime_dir: PathBuf,
    /// How the engine is reached.
    pub engine: EngineConfig,
    /// How agents reach ostler.
    pub network: NetworkConfig,
    /// Host ports that ostler allots to containers.
    pub ports: PortRange,
    /// Who may talk to whom.
    pub access: AccessConfig,
    /// Agents that run elsewhere.
    pub external: ExternalConfig,
    /// How often what ended by itself is started again.
    pub restart: RestartBudget,
    /// Graces and retentions.
    pub sweep: SweepConfig,
    /// The runtimes by name; always holds `plain` and `agent`.
    pub runtimes: BTreeMap<String, Runtime>,
    /// What is logged and how.
    pub log: LogConfig,
}

/// `[engine]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// Podman's socket; looked for in the usual places when none is given.
    pub socket: Option<String>,
    /// How long a question may take.
    pub read_deadline: Duration,
    /// How long a change may take.
    pub change_deadline: Duration,
    /// How long pulling an image may take.
    pub pull_deadline: Duration,
    /// How many containers are started at once; 0 stands for the number of processors.
    pub concurrent_starts: u32,
    /// The size in bytes at which a container's log is dropped and begun again.
    pub log_size: u64,
}

impl EngineConfig {
    /// How many containers are started at once, at least 1.
    #[must_use]
    pub fn concurrent_starts(&self) -> usize {
        match self.concurrent_starts {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            number => usize::try_from(number).unwrap_or(usize::MAX),
        }
    }
}

/// `[network]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkConfig {
    /// Whether containers are kept from reaching each other.
    pub isolate: bool,
    /// The TCP port for agents.
    pub port: u16,
    /// The addresses to listen on, in place of loopback and the gateway of the workspaces' network.
    pub listen: Vec<IpAddr>,
    /// The address agents are told, in place of the one ostler works out.
    pub platform_url: Option<String>,
}

/// `[access]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessConfig {
    /// Whether workspaces without a parent may talk to each other.
    pub root_siblings: bool,
    /// How often one workspace may wake another within an hour.
    pub wakes_per_hour: u32,
}

/// `[external]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalConfig {
    /// Whether external agents may be at private addresses.
    pub allow_private: bool,
    /// Whether external agents may be on this machine.
    pub allow_loopback: bool,
}

/// `[sweep]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SweepConfig {
    /// How long a container must be absent before its instance tokens are revoked.
    pub absence_grace: Duration,
    /// How long an unknown thing is watched before it goes into the trash.
    pub unknown_grace: Duration,
    /// How long the trash is kept.
    pub trash_retention: Duration,
    /// How long events are kept.
    pub event_retention: Duration,
    /// How often containers are looked at, besides their events.
    pub look_every: Duration,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// A filter as `tracing` reads it, such as `info` or `info,ostler::sweep=debug`.
    pub level: String,
    /// The form of a line.
    pub format: LogFormat,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Pretty on a terminal, JSON otherwise.
    Auto,
    /// For people.
    Pretty,
    /// For machines.
    Json,
}

impl Config {
    /// The defaults, with these two places.
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
                look_every: Duration::from_secs(30),
            },
            runtimes: BTreeMap::from([
                (PLAIN.to_owned(), Runtime::plain()),
                (AGENT.to_owned(), Runtime::agent()),
            ]),
            log: LogConfig { level: "info".to_owned(), format: LogFormat::Auto },
        }
    }

    /// The defaults, in this platform's places.
    #[must_use]
    pub fn defaults() -> Self {
        Self::at(default_data_dir(), default_runtime_dir())
    }

    /// The socket on which the daemon speaks with the CLI.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.data_dir.join("ostler.sock")
    }
}

/// Without the runtimes: their environment may hold secrets.
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

/// Where the file is looked for when nobody names one.
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

/// What stands above the file: the environment and the flags, as parameters.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--config`
    pub file: Option<PathBuf>,
    /// `--data-dir`
    pub data_dir: Option<PathBuf>,
    /// The environment; only `OSTLER_*` is looked at.
    pub env: Vec<(String, String)>,
}

impl Overrides {
    /// The file to read, and whether somebody asked for exactly this one.
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

/// A configuration, and how it came about.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// Every key with its effective value and where that came from, in the order of the template.
    pub settings: Vec<Setting>,
    /// What is odd but does no harm.
    pub warnings: Vec<String>,
}

/// A key with its effective value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Such as `sweep.unknown_grace`.
    pub key: String,
    /// As it would be written in the file; none where nothing is set.
    pub value: Option<String>,
    /// `default`, `file:12`, `OSTLER_…` or a flag.
    pub source: String,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("the configuration file {} cannot be read", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Values or keys that cannot be used.
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

/// One thing that is wrong: where, and what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    place: Place,
    message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Default,
    File { path: PathBuf, line: usize },
    Variable(String),
    Flag(&'static str),
}

impl Place {
    /// The short form of `config show`, where the file is named once above the table.
    fn short(&self) -> String {
        match self {
            Self::File { line, .. } => format!("file:{line}"),
            Self::Default | Self::Variable(_) | Self::Flag(_) => self.to_string(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

/// Reads the configuration.
pub fn load(overrides: &Overrides) -> Result<Loaded, ConfigError> {
    let mut loading = Loading::new(Config::defaults());
    let (path, asked_for) = overrides.file();
    if let Some(text) = read(&path, asked_for)? {
        loading.file(&path, &text);
        loading.config.file = Some(path);
    }
    loading.environment(&overrides.env);
    if let Some(dir) = &overrides.data_dir {
        loading.data_dir_flag(dir);
    }
    loading.check_together();
    loading.finish()
}

/// A file nobody asked for may be missing.
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

/// A configuration in the making.
struct Loading {
    config: Config,
    places: BTreeMap<String, Place>,
    problems: Vec<Problem>,
    warnings: Vec<String>,
}

impl Loading {
    fn new(config: Config) -> Self {
        Self { config, places: BTreeMap::new(), problems: Vec::new(), warnings: Vec::new() }
    }

    fn problem(&mut self, place: Place, message: String) {
        self.problems.push(Problem { place, message });
    }

    fn file(&mut self, path: &Path, text: &str) {
        let file = File { path, text };
        match DeTable::parse(text) {
            Ok(document) => self.table("", document.get_ref(), &file),
            Err(error) => {
                let span = error.span().unwrap_or_default();
                // A key is named: `duplicate key` alone says nothing in a long file.
                let what = match text.get(span.clone()).map(str::trim) {
                    Some(found) if !found.is_empty() && !found.contains('\n') => format!(": `{found}`"),
                    Some(_) | None => String::new(),
                };
                self.problem(file.place(span.start), format!("this is not TOML: {}{what}", error.message()));
            }
        }
    }

    fn table(&mut self, prefix: &str, table: &DeTable<'_>, file: &File<'_>) {
        for (key, value) in table {
            let path = join(prefix, key.get_ref());
            let at = file.place(key.span().start);
            if path == "runtimes" {
                self.runtimes(value, &at, file);
            } else if KEYS.iter().any(|known| known.path == path) {
                self.set(&path, value.get_ref(), file.place(value.span().start));
            } else if !keys::is_section(&path) {
                let near = keys::advice(&path, prefix);
                self.problem(at, format!("unknown key `{path}`{near}"));
            } else if let Some(section) = value.get_ref().as_table() {
                self.table(&path, section, file);
            } else {
                self.problem(at, format!("`{path}` is a section: write its keys below a line `[{path}]`"));
            }
        }
    }

    fn runtimes(&mut self, value: &Spanned<DeValue<'_>>, at: &Place, file: &File<'_>) {
        let Some(table) = value.get_ref().as_table() else {
            return self.problem(at.clone(), "`runtimes` is a section: write `[runtimes.NAME]`".to_owned());
        };
        for (name, value) in table {
            let at = file.place(name.span().start);
            let name = name.get_ref().as_ref();
            match (keys::check_runtime_name(name), value.get_ref().as_table()) {
                (Err(why), _) => self.problem(at, why),
                (Ok(()), Some(keys)) => self.runtime(name, keys, file),
                (Ok(()), None) => self.problem(
                    at,
                    format!(
                        "`runtimes.{name}` is a section: write its keys below a line `[runtimes.{name}]`"
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
                self.problem(file.place(key.span().start), format!("unknown key `{path}`{near}"));
                continue;
            };
            let place = file.place(value.span().start);
            match (known.slot)(&mut runtime).set(value.get_ref()) {
                Ok(()) => drop(self.places.insert(path, place)),
                Err(why) => self.problem(place, format!("`{path}`: {why}")),
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
                    self.set(key.path, &value, Place::Variable(name.clone()));
                }
                None => self.warnings.push(format!(
                    "the environment variable {name} means nothing to ostler{}",
                    keys::variable_advice(name)
                )),
            }
        }
    }

    fn data_dir_flag(&mut self, dir: &Path) {
        match std::path::absolute(dir) {
            Ok(dir) => {
                self.config.data_dir = dir;
                self.places.insert("data_dir".to_owned(), Place::Flag("--data-dir"));
            }
            Err(why) => self.problem(Place::Flag("--data-dir"), why.to_string()),
        }
    }

    fn set(&mut self, path: &str, value: &DeValue<'_>, place: Place) {
        let Some(key) = KEYS.iter().find(|key| key.path == path) else { return };
        match (key.slot)(&mut self.config).set(value) {
            Ok(()) => drop(self.places.insert(path.to_owned(), place)),
            Err(why) => self.problem(place, format!("`{path}`: {why}")),
        }
    }

    /// What no single key can know.
    fn check_together(&mut self) {
        let Config { ports, network, .. } = &self.config;
        if (ports.first..=ports.last).contains(&network.port) {
            let message = format!(
                "`network.port` {} lies inside `ports` {ports}, which are for containers: move one of them",
                network.port
            );
            let key = if self.places.contains_key("network.port") { "network.port" } else { "ports" };
            self.problem(self.place(key), message);
        }
        let socket = self.config.socket();
        let length = socket.as_os_str().len();
        if length > SOCKET_PATH_MAX {
            let message = format!(
                "`data_dir` is too long: the socket {} has {length} bytes, and the kernel takes at most \
                 {SOCKET_PATH_MAX}; choose a shorter directory",
                socket.display()
            );
            self.problem(self.place("data_dir"), message);
        }
    }

    fn place(&self, key: &str) -> Place {
        self.places.get(key).cloned().unwrap_or(Place::Default)
    }

    fn finish(mut self) -> Result<Loaded, ConfigError> {
        if !self.problems.is_empty() {
            // Tables are read by name; a person mends a file from its top.
            self.problems.sort_by_key(|problem| match problem.place {
                Place::File { line, .. } => line,
                Place::Default | Place::Variable(_) | Place::Flag(_) => usize::MAX,
            });
            return Err(ConfigError::Invalid(self.problems));
        }
        let settings = self.settings();
        Ok(Loaded { config: self.config, settings, warnings: self.warnings })
    }

    fn settings(&mut self) -> Vec<Setting> {
        let shown = difference::values(&mut self.config);
        let source = |key: &str| self.place(key).short();
        shown.into_iter().map(|(key, value)| Setting { source: source(&key), key, value }).collect()
    }
}

/// A file being read, for telling lines.
struct File<'a> {
    path: &'a Path,
    text: &'a str,
}

impl File<'_> {
    fn place(&self, offset: usize) -> Place {
        let before = self.text.as_bytes().iter().take(offset);
        let line = 1 + before.filter(|byte| **byte == b'\n').count();
        Place::File { path: self.path.to_owned(), line }
    }
}

fn join(prefix: &str, key: &str) -> String {
    if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") }
}

#[cfg(test)]
mod tests;
