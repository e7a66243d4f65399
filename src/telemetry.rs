//! Logs: to standard error, because standard output belongs to answers.

use std::io;

use anyhow::{Context as _, anyhow};
use tracing_subscriber::{EnvFilter, fmt};

/// The crates that speak to the engine write its whole answers at `trace`: whatever those hold, what
/// workspaces print among it, is not the log's. They have nothing else to say.
const SILENCED: [&str; 2] = ["containers_api=debug", "podman_api=debug"];

/// Starts logging what passes `filter`; as JSON, one object per line, or for people.
///
/// The form is the caller's choice, since only the edge knows whether a person is watching.
///
/// # Errors
/// When `filter` is none, or logging was started before.
pub fn init(filter: &str, json: bool) -> anyhow::Result<()> {
    let mut filter = EnvFilter::builder().parse(filter).context("the log filter is not understood")?;
    for directive in SILENCED {
        filter = filter.add_directive(directive.parse()?);
    }
    let logs = fmt().with_env_filter(filter).with_writer(io::stderr);
    let started = if json {
        logs.json().flatten_event(true).with_current_span(false).try_init()
    } else {
        logs.with_target(false).with_ansi(std::env::var_os("NO_COLOR").is_none()).try_init()
    };
    started.map_err(|why| anyhow!("logging cannot be started: {why}"))
}
