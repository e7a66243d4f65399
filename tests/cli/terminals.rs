//! Output on a terminal: colour, width, and commands that use the terminal directly.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::unix::ffi::OsStrExt as _,
    process::{Child, Command},
    thread,
    time::Duration,
};

use ostler::api::exec::{CreatedExec, ExecStatus};
use rustix::{
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize},
};
use serde_json::json;

use super::fixtures;
use crate::support::cli::FakeDaemon;

/// A pseudo-terminal: the user's side and the side of the process.
pub(super) struct Terminal {
    user_side: File,
    process_side: File,
}

impl Terminal {
    pub(super) fn open(columns: u16) -> Self {
        // A child that inherited the user's side would keep the terminal open.
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let user_side = openpt(flags).unwrap();
        grantpt(&user_side).unwrap();
        unlockpt(&user_side).unwrap();
        let name = ptsname(&user_side, Vec::new()).unwrap();
        let name = std::ffi::OsStr::from_bytes(name.to_bytes());
        let process_side = File::options().read(true).write(true).open(name).unwrap();
        tcsetwinsize(&process_side, Winsize { ws_row: 30, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 })
            .unwrap();
        Self { user_side: user_side.into(), process_side }
    }

    pub(super) fn run(&self, mut command: Command) -> Child {
        let end = || self.process_side.try_clone().unwrap();
        command.env("TERM", "xterm").stdin(end()).stdout(end()).stderr(end()).spawn().unwrap()
    }

    fn is_raw(&self) -> bool {
        !tcgetattr(&self.process_side).unwrap().local_modes.contains(LocalModes::ICANON)
    }

    /// Everything that was written to the terminal, once no process has it open any more.
    fn screen(self) -> String {
        let Self { mut user_side, process_side } = self;
        drop(process_side);
        let mut screen = Vec::new();
        // When no process has the terminal open, reading from it fails.
        drop(user_side.read_to_end(&mut screen));
        String::from_utf8(screen).unwrap().replace("\r\n", "\n")
    }
}

#[test]
fn colour_is_printed_only_on_terminal_and_not_with_no_color() {
    let daemon = FakeDaemon::start();
    daemon.answers("GET /workspaces", 200, &fixtures::sample_workspaces());
    let screen_with = |no_color: &str| {
        let terminal = Terminal::open(200);
        let mut command = daemon.command(&["ls"]);
        command.env("NO_COLOR", no_color);
        assert!(terminal.run(command).wait().unwrap().success());
        terminal.screen()
    };
    assert!(screen_with("").contains("\u{1b}["), "{}", screen_with(""));
    assert_eq!(screen_with("1"), daemon.run(&["ls"]).stdout);
}

/// The other columns of a row stay on one line, however narrow the terminal is.
#[test]
fn ls_moves_last_column_below_row_on_narrow_terminal() {
    let daemon = FakeDaemon::start();
    daemon.answers("GET /workspaces", 200, &[fixtures::tester()]);
    let terminal = Terminal::open(80);
    let mut command = daemon.command(&["ls"]);
    command.env("NO_COLOR", "1");
    assert!(terminal.run(command).wait().unwrap().success());
    insta::assert_snapshot!("ls_narrow", terminal.screen());
}

#[test]
fn shell_sets_terminal_to_raw_mode_and_restores_it() {
    let daemon = FakeDaemon::start();
    daemon.answers("POST /workspaces/builder/exec", 201, &CreatedExec { id: "e1".into() });
    daemon.answers("GET /exec/e1", 200, &ExecStatus { exit_code: Some(7) });
    daemon.answers("POST /exec/e1/resize", 200, &json!({}));
    daemon.executes(b"bye\r\n");

    let terminal = Terminal::open(100);
    let mut child = terminal.run(daemon.command(&["shell", "builder"]));
    wait_until("the terminal is in raw mode", || terminal.is_raw());
    wait_until("the terminal size is sent", || {
        daemon.requests().iter().any(|sent| sent == r#"POST /exec/e1/resize {"columns":100,"rows":30}"#)
    });
    // In raw mode, the carriage return arrives unchanged and Ctrl-C arrives as a byte.
    (&terminal.user_side).write_all(b"\x03exit\r").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(7));
    assert!(!terminal.is_raw(), "the terminal is still in raw mode");
    assert_eq!(daemon.exec_input(), "\u{3}exit\r");
    assert!(terminal.screen().ends_with("bye\n"));
    let exec_request = &daemon.requests()[0];
    assert!(
        exec_request
            .ends_with(r#"{"command":["sh"],"tty":true,"stdin":true,"env":{"TERM":"xterm"},"user":null}"#),
        "{exec_request}"
    );
}

pub(super) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if condition() {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("timed out waiting until {what}");
}
