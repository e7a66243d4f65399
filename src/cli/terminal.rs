//! The user's terminal while `exec` runs a command: its size, and raw mode, which is always undone.

use std::io;

use rustix::{
    stdio::stdin,
    termios::{self, OptionalActions, Termios},
};

/// Keeps standard input in raw mode; dropping this value restores the previous mode. A panic drops it too, but a signal
/// that kills the process does not: the caller must handle signals while it holds this value.
pub(super) struct RawMode(Termios);

impl RawMode {
    pub(super) fn enter() -> io::Result<Self> {
        let before = termios::tcgetattr(stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(stdin(), OptionalActions::Drain, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // A destructor cannot report the error, and there is no other way to restore the terminal.
        let _ = termios::tcsetattr(stdin(), OptionalActions::Drain, &self.0);
    }
}

/// Columns and rows of the terminal on standard input.
pub(super) fn size() -> Option<(u16, u16)> {
    let size = termios::tcgetwinsize(stdin()).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
}
