//! The signals that end the daemon or reload its configuration.

use std::{
    io::{self, IsTerminal as _},
    pin::Pin,
};

use anyhow::Context as _;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::Notify,
};
use tokio_util::sync::CancellationToken;

/// The signals that the daemon handles.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    terminal: Terminal,
}

impl Signals {
    /// Installs the handlers.
    ///
    /// # Errors
    /// If the system refuses one.
    pub(super) fn install() -> anyhow::Result<Self> {
        let terminate = signal(SignalKind::terminate()).context("cannot install a signal handler")?;
        let interrupt = signal(SignalKind::interrupt()).context("cannot install a signal handler")?;
        let hangup = signal(SignalKind::hangup()).context("cannot install a signal handler")?;
        Ok(Self { terminate, interrupt, hangup, terminal: Terminal::at_start() })
    }

    /// Awaits `serving`. Meanwhile each signal cancels `stop` or notifies `reload`.
    pub(super) async fn handle_during<T>(
        mut self,
        mut serving: Pin<&mut impl Future<Output = T>>,
        stop: &CancellationToken,
        reload: &Notify,
    ) -> T {
        loop {
            tokio::select! {
                biased;
                done = &mut serving => return done,
                _ = self.terminate.recv() => stop.cancel(),
                _ = self.interrupt.recv() => stop.cancel(),
                _ = self.hangup.recv() => if self.terminal.was_closed() { stop.cancel() } else { reload.notify_one() },
            }
        }
    }
}

/// Whether the daemon was started from a terminal.
///
/// When a terminal is closed, the kernel sends SIGHUP to the processes that were started from it. This SIGHUP ends the
/// daemon, as it ends other programs by default. Any other SIGHUP requests a reload.
struct Terminal(bool);

impl Terminal {
    fn at_start() -> Self {
        Self(Self::is_there())
    }

    fn is_there() -> bool {
        io::stdin().is_terminal() || io::stdout().is_terminal() || io::stderr().is_terminal()
    }

    fn was_closed(&self) -> bool {
        self.0 && !Self::is_there()
    }
}
