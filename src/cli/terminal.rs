//! The terminal of a command run by `exec`: raw mode, which is always restored.

use std::io;

use rustix::{
    stdio::stdin,
    termios::{self, OptionalActions, Termios},
};

/// Sets raw mode on standard input until dropped. A panic drops it too, but death by a signal does not: the caller has
/// to handle signals while it holds this.
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
