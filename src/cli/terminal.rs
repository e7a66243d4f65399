//! The terminal of an `exec`ed command: raw mode, given back whatever happens.

use std::io;

use rustix::{
    stdio::stdin,
    termios::{self, OptionalActions, Termios},
};

/// Raw mode on standard input until dropped. Unwinding drops it too; a signal must be waited for by
/// whoever holds it, since being killed by one would not.
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
        // Nothing can be done if even this fails, and a drop has nobody to tell.
        let _ = termios::tcsetattr(stdin(), OptionalActions::Drain, &self.0);
    }
}

/// Columns and rows of the terminal on standard input.
pub(super) fn size() -> Option<(u16, u16)> {
    let size = termios::tcgetwinsize(stdin()).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
}
