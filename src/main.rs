//! The binary: parses arguments, runs the command, reports a failure once, and exits with its code.

use std::{cell::Cell, io::IsTerminal as _, path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use async_trait::async_trait;
use clap::Parser as _;
use ostler::{
    api,
    cli::{self, Configuration, Exit, Failure, Host, Setting, args::Cli},
    config::{self, ConfigError, Loaded, LogConfig, LogFormat, Overrides},
    daemon, telemetry,
};

// The allocator decides how much memory the daemon keeps after a few large messages. glibc's allocator keeps freed
// memory in the arena of each thread that read such a message. mimalloc keeps it in pages of each thread, separate for
// each block size. jemalloc returns it to the kernel after one second (set in `.cargo/config.toml`). After the worst
// load that one agent can cause, 13 MiB remain with jemalloc; with mimalloc it was 21 to 25 MiB.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Ignore EPIPE when printing help.
            drop(error.print());
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Exit::Usage as u8));
        }
    };
    ExitCode::from(run(cli).unwrap_or_else(|failure| failure.report()))
}

fn run(cli: Cli) -> Result<u8, Failure> {
    let overrides = Overrides {
        file: cli.global.config.clone(),
        data_dir: cli.global.data_dir.clone(),
        // Variables that are not valid UTF-8 are ignored.
        env: std::env::vars_os()
            .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
            .collect(),
    };
    let runtime = tokio::runtime::Runtime::new().context("the async runtime cannot be started")?;
    let ended = runtime.block_on(cli::run(cli, &Process { overrides, warned: Cell::new(false) }));
    // Does not wait for blocking tasks: a pending read of standard input, whose result is no longer needed, would delay
    // the exit.
    runtime.shutdown_background();
    ended
}

/// The [`Host`] of this process: it loads the configuration and runs the daemon's code here.
struct Process {
    overrides: Overrides,
    /// Whether the configuration's warnings were printed. A command may load the configuration twice, but prints them
    /// once.
    warned: Cell<bool>,
}

impl Process {
    fn load(&self) -> Result<Loaded, Failure> {
        let loaded = config::load(&self.overrides).map_err(refused)?;
        self.warn(&loaded);
        Ok(loaded)
    }

    fn warn(&self, loaded: &Loaded) {
        if !self.warned.replace(true) {
            for warning in &loaded.warnings {
                cli::note(&format!("warning: {warning}"));
            }
        }
    }
}

fn refused(error: ConfigError) -> Failure {
    Failure::from_error(Exit::Usage, error.into())
}

fn start_logging(log: &LogConfig) -> anyhow::Result<()> {
    let json = match log.format {
        LogFormat::Auto => !std::io::stderr().is_terminal(),
        LogFormat::Pretty => false,
        LogFormat::Json => true,
    };
    telemetry::init(&log.level, json)
}

#[async_trait(?Send)]
impl Host for Process {
    fn socket(&self) -> Result<PathBuf, Failure> {
        let error = match config::load(&self.overrides) {
            Ok(loaded) => {
                self.warn(&loaded);
                return Ok(loaded.config.socket());
            }
            Err(error) => error,
        };
        let socket = config::socket_despite_errors(&self.overrides);
        if !socket.exists() {
            return Err(refused(error));
        }
        if !self.warned.replace(true) {
            cli::note(&format!(
                "warning: {error}\n  The command continues without the file. The running daemon keeps its values, but \
                 cannot be restarted until the file is correct (`ostler config check`)."
            ));
        }
        Ok(socket)
    }

    async fn serve(&self) -> Result<(), Failure> {
        let config = self.load()?.config;
        start_logging(&config.log)?;
        Ok(daemon::serve(config, self.overrides.clone()).await?)
    }

    async fn dry_run(&self, passes: Vec<String>) -> Result<Vec<api::sweep::PassRun>, Failure> {
        Ok(daemon::dry_run(self.load()?.config, passes).await?)
    }

    async fn doctor(&self) -> Result<api::doctor::DoctorReport, Failure> {
        Ok(daemon::doctor_offline(self.load()?.config).await?)
    }

    async fn accept_copy(&self) -> Result<(), Failure> {
        Ok(daemon::accept_copy(self.load()?.config).await?)
    }

    fn configuration(&self) -> Result<Configuration, Failure> {
        let loaded = self.load()?;
        let settings = loaded.settings.into_iter();
        let settings = settings.map(|config::Setting { key, value, source }| Setting { key, value, source });
        Ok(Configuration { file: loaded.config.file, settings: settings.collect() })
    }

    fn config_file(&self) -> PathBuf {
        self.overrides.path()
    }

    fn config_template(&self) -> String {
        config::template()
    }
}
