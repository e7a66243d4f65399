//! `ostler config`

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use serde::Serialize;
use serde_json::json;

use crate::{
    api::configuration::{ConfigDifference, RunningConfig},
    cli::{
        client::Client,
        failure::{Exit, Failure},
        host::{Configuration, Host},
        output::{self, Cell, Output, Tone},
    },
};

/// Show, create or check the configuration
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Order of precedence: flags, environment variables (OSTLER_SWEEP_UNKNOWN_GRACE sets
sweep.unknown_grace), the configuration file, defaults.")]
pub(in crate::cli) struct Args {
    /// The subcommand.
    #[command(subcommand)]
    command: ConfigCommand,
}

/// A command about the configuration.
#[derive(Debug, clap::Subcommand)]
enum ConfigCommand {
    /// Show every key with its value and source, and where the running daemon differs
    Show,
    /// Write a commented configuration file; an existing file is not overwritten
    Init,
    /// Check the configuration without applying it
    Check,
}

/// The configuration as this command reads it, and how the daemon's configuration differs from it.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    configuration: Configuration,
    /// `None` if no daemon answers.
    daemon: Option<Daemon>,
}

/// How the configuration of the running daemon differs from the one that this command reads.
#[derive(Serialize)]
struct Daemon {
    /// The file that the daemon has read.
    file: Option<PathBuf>,
    /// Why the daemon cannot use its file now.
    problem: Option<String>,
    differences: Vec<ConfigDifference>,
}

/// Value of `applied_by` for a difference that a reload or restart of the daemon does not remove, because the daemon
/// reads another file, other environment variables or other flags.
const BY_OTHER: &str = "other";

pub(in crate::cli) async fn run(out: Output, host: &dyn Host, args: &Args) -> Result<u8, Failure> {
    match args.command {
        ConfigCommand::Show => show(out, host).await,
        ConfigCommand::Init => init(out, host),
        ConfigCommand::Check => check(out, host).await,
    }
}

async fn show(out: Output, host: &dyn Host) -> Result<u8, Failure> {
    let effective = effective(host).await?;
    if out.json() {
        out.value(&effective)?;
        return Ok(0);
    }
    let Shown { configuration, daemon } = effective;
    out.line(&origin(host, &configuration))?;
    out.line("")?;
    let rows = configuration.settings.into_iter().map(|setting| {
        let changed = setting.source != "default";
        let value = match setting.value {
            Some(value) => Cell::from(value.replace('\n', "\\n")),
            None => Cell::toned(Tone::Dim, "-"),
        };
        let source = Cell::toned(if changed { Tone::Good } else { Tone::Dim }, setting.source);
        [setting.key.into(), value, source]
    });
    out.table(["KEY", "VALUE", "FROM"], rows.collect())?;
    if let Some(daemon) = daemon {
        show_daemon(out, &daemon)?;
    }
    Ok(0)
}

fn show_daemon(out: Output, daemon: &Daemon) -> Result<(), Failure> {
    if let Some(problem) = &daemon.problem {
        out.line("")?;
        out.line(&format!(
            "The running daemon keeps its values, because it cannot read its configuration: {problem}"
        ))?;
    }
    if daemon.differences.is_empty() {
        return Ok(());
    }
    out.line("")?;
    out.line("The running daemon has other values:")?;
    out.line("")?;
    let rows = daemon.differences.iter().map(|one| {
        let applied_by = match one.applied_by.as_str() {
            "reload" => "`ostler reload`".to_owned(),
            "restart" => "a restart of the daemon".to_owned(),
            _ => format!(
                "- (the daemon reads {}, with its own environment and flags)",
                named(daemon.file.as_deref())
            ),
        };
        let [running, configured] = values(one);
        [one.key.clone().into(), running, configured, applied_by.into()]
    });
    out.table(["KEY", "DAEMON", "CONFIGURED", "APPLIED BY"], rows.collect())
}

fn named(file: Option<&Path>) -> String {
    file.map_or_else(|| "no file".to_owned(), |file| file.display().to_string())
}

/// The cells of a difference: the daemon's value and the configured one.
pub(super) fn values(difference: &ConfigDifference) -> [Cell; 2] {
    let cell = |value: &Option<String>, hint: &str| match value {
        Some(value) => Cell::from(format!("{}{hint}", value.replace('\n', "\\n"))),
        None => Cell::toned(Tone::Dim, "-"),
    };
    // Values of environment variables are redacted, so both texts may be equal although the values differ.
    let hint = if difference.running == difference.configured { " (other values)" } else { "" };
    [cell(&difference.running, ""), cell(&difference.configured, hint)]
}

/// Reads the configuration, and compares it with the daemon's if a daemon answers.
async fn effective(host: &dyn Host) -> Result<Shown, Failure> {
    let configuration = host.configuration()?;
    let answer: Result<RunningConfig, Failure> = Client::new(host.socket()?).get("/config").await;
    let daemon = match answer {
        Ok(running) => Some(compare(&configuration, running)),
        Err(failure) => {
            if !failure.is_unreachable() {
                output::note("The configuration of the running daemon could not be read:");
                let _reported = failure.report();
            }
            None
        }
    };
    Ok(Shown { configuration, daemon })
}

/// Combines two lists of differences: those that the daemon reports, and those between the daemon's values and this
/// command's. The latter exist because the daemon may read another file and has its own environment.
fn compare(configuration: &Configuration, running: RunningConfig) -> Daemon {
    let RunningConfig { file, settings, mut differences, problem } = running;
    let of_daemon = |key: &str| settings.iter().find(|one| one.key == key).and_then(|one| one.value.as_ref());
    let mut others = Vec::new();
    for own in &configuration.settings {
        let is_difference = differences.iter().any(|differing| {
            own.key.strip_prefix(&differing.key).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        });
        let value = of_daemon(&own.key);
        if !is_difference && value != own.value.as_ref() {
            others.push(ConfigDifference {
                key: own.key.clone(),
                running: value.cloned(),
                configured: own.value.clone(),
                applied_by: BY_OTHER.to_owned(),
            });
        }
    }
    differences.extend(others);
    Daemon { file, problem, differences }
}

fn origin(host: &dyn Host, configuration: &Configuration) -> String {
    match &configuration.file {
        Some(file) => format!("file: {}", file.display()),
        None => format!("file: none ({} does not exist)", host.config_file().display()),
    }
}

async fn check(out: Output, host: &dyn Host) -> Result<u8, Failure> {
    let Shown { configuration, daemon } = effective(host).await?;
    if out.json() {
        out.value(&json!({ "ok": true, "file": configuration.file, "daemon": daemon }))?;
        return Ok(0);
    }
    out.line(&format!("ok, {}", origin(host, &configuration)))?;
    let Some(daemon) = daemon else { return Ok(0) };
    for (applied_by, next) in [
        ("reload", "`ostler reload` applies them"),
        ("restart", "a restart of the daemon applies them"),
        (
            BY_OTHER,
            "the daemon uses another file, other environment variables or other flags; `ostler config show` shows the \
             differences",
        ),
    ] {
        let keys = daemon.differences.iter().filter(|one| one.applied_by == applied_by);
        let keys: Vec<_> = keys.map(|one| one.key.as_str()).collect();
        if !keys.is_empty() {
            out.line(&format!("the running daemon has other values for {}: {next}", keys.join(", ")))?;
        }
    }
    Ok(0)
}

fn init(out: Output, host: &dyn Host) -> Result<u8, Failure> {
    let path = host.config_file();
    match write_new(&path, &host.config_template()) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let why = format!("{} already exists and was not changed", path.display());
            let next = "move it away first, or choose another path with `--config FILE`";
            return Err(Failure::new(Exit::Conflict, why).next(next));
        }
        Err(error) => {
            return Err(anyhow::Error::new(error)
                .context(format!("{} cannot be written", path.display()))
                .into());
        }
    }
    if out.json() {
        out.value(&json!({ "file": path }))?;
    } else {
        out.line(&format!("wrote {}", path.display()))?;
    }
    Ok(0)
}

/// Writes a new file. `create_new` never overwrites an existing file, even one that is created at the same moment.
fn write_new(path: &Path, text: &str) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let mut file = File::options().write(true).create_new(true).open(path)?;
    file.write_all(text.as_bytes())
}
