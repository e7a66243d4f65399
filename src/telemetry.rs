//! Logs to standard error, because standard output is reserved for command output.

use std::{io, sync::OnceLock};

use anyhow::{Context as _, anyhow};
use tracing_subscriber::{EnvFilter, fmt, reload};

/// Filter directives for crates that log complete engine responses at `trace`. The responses may include output of
/// workspaces, which must not appear in the log. At `trace` these crates log nothing else that is useful.
const SILENCED: [&str; 2] = ["containers_api=debug", "podman_api=debug"];

/// Replaces the filter of the log. Boxed because the filter's type depends on the output format, chosen at the start.
type SetFilter = Box<dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync>;

static SET_FILTER: OnceLock<SetFilter> = OnceLock::new();

/// Starts logging the records that pass `filter`: as JSON with one object per line, or as human-readable text.
///
/// The caller chooses the format, because only the binary knows whether a user reads the log directly.
///
/// # Errors
/// `filter` is invalid, or logging was already started.
pub fn init(filter: &str, json: bool) -> anyhow::Result<()> {
    let logs = fmt().with_env_filter(parse(filter)?).with_writer(io::stderr);
    let (set_filter, started): (SetFilter, _) = if json {
        let logs = logs.json().flatten_event(true).with_current_span(false).with_filter_reloading();
        let handle = logs.reload_handle();
        (Box::new(move |filter| handle.reload(filter)), logs.try_init())
    } else {
        let logs = logs.with_target(false).with_ansi(std::env::var_os("NO_COLOR").is_none());
        let logs = logs.with_filter_reloading();
        let handle = logs.reload_handle();
        (Box::new(move |filter| handle.reload(filter)), logs.try_init())
    };
    started.map_err(|why| anyhow!("cannot start logging: {why}"))?;
    SET_FILTER.set(set_filter).map_err(|_| anyhow!("logging is already started"))
}

/// Replaces the filter of the running log.
///
/// # Errors
/// `filter` is invalid, or logging was not started.
pub fn set_filter(filter: &str) -> anyhow::Result<()> {
    let set_filter = SET_FILTER.get().context("logging was not started")?;
    set_filter(parse(filter)?).context("cannot replace the log filter")
}

fn parse(filter: &str) -> anyhow::Result<EnvFilter> {
    let mut filter = EnvFilter::builder().parse(filter).context("invalid log filter")?;
    for directive in SILENCED {
        filter = filter.add_directive(directive.parse()?);
    }
    Ok(filter)
}
