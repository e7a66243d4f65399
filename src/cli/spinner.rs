//! Waits for operations and shows their progress, on a terminal only.

use std::{
    io::{self, IsTerminal as _},
    pin::pin,
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};

use crate::api::workspace::WorkspaceView;

use super::{
    client::workspace,
    failure::Failure,
    output,
    session::Session,
    text::{self, printable, quoted},
};

/// Interval at which the command asks the daemon for the progress.
const CHECK_INTERVAL: Duration = Duration::from_millis(200);

/// A progress line on standard error, which is erased on drop. Prints nothing if standard error is not a terminal.
pub(super) struct Spinner(Option<ProgressBar>);

impl Spinner {
    pub(super) fn start(message: String) -> Self {
        if !io::stderr().is_terminal() {
            return Self(None);
        }
        let style = ProgressStyle::with_template("{spinner} {wide_msg}  {elapsed:.dim}");
        let bar = ProgressBar::new_spinner().with_message(message);
        if let Ok(style) = style {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(100));
        Self(Some(bar))
    }

    fn visible(&self) -> bool {
        self.0.is_some()
    }

    /// Shows `builder: pulling image …`: the operation in progress, or else the status.
    fn show(&self, view: &WorkspaceView) {
        if let Some(bar) = &self.0 {
            let doing = view.operation.as_deref().map_or_else(|| text::status(view), printable);
            bar.set_message(format!("{}: {doing}", printable(&view.name)));
        }
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// Awaits `order`. Meanwhile, shows the operation that the daemon carries out for the workspace.
pub(super) async fn while_carried_out<T>(
    session: &Session<'_>,
    reference: &str,
    order: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let spinner = Spinner::start(format!("{reference}: waiting for the daemon"));
    let mut order = pin!(order);
    let mut interrupted = pin!(tokio::signal::ctrl_c());
    let mut checks = tokio::time::interval(CHECK_INTERVAL);
    loop {
        tokio::select! {
            biased;
            done = &mut order => return done,
            _ = &mut interrupted => return Err(still_running(reference, spinner)),
            _ = checks.tick(), if spinner.visible() => {
                // A failed query is ignored: the operation's own response reports a failure.
                if let Ok(view) = session.client.get(&workspace(reference)).await {
                    spinner.show(&view);
                }
            }
        }
    }
}

/// Polls until the workspace is no longer `provisioning`.
pub(super) async fn until_settled(
    session: &Session<'_>,
    id: &str,
    name: &str,
) -> Result<WorkspaceView, Failure> {
    let spinner = Spinner::start(format!("{name}: starting"));
    let mut interrupted = pin!(tokio::signal::ctrl_c());
    let mut checks = tokio::time::interval(CHECK_INTERVAL);
    loop {
        tokio::select! {
            biased;
            _ = &mut interrupted => return Err(still_running(name, spinner)),
            _ = checks.tick() => {}
        }
        let view: WorkspaceView = session.client.get(&workspace(id)).await?;
        if view.status != "provisioning" {
            return Ok(view);
        }
        spinner.show(&view);
    }
}

fn still_running(name: &str, spinner: Spinner) -> Failure {
    drop(spinner);
    output::note(&format!(
        "stopped waiting; the daemon continues: `ostler operations ls {}` shows the outcome",
        quoted(name)
    ));
    Failure::Interrupted
}
