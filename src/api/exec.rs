//! A command in a workspace's container.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// `POST /workspaces/:id/exec`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CreateExec {
    /// The command followed by its arguments.
    pub command: Vec<String>,
    /// Whether to allocate a terminal.
    pub tty: bool,
    /// Whether standard input is connected.
    pub stdin: bool,
    /// Environment variables to add.
    pub env: BTreeMap<String, String>,
    /// User inside the container; absent: the agent's user.
    pub user: Option<String>,
}

/// Response to `POST /workspaces/:id/exec`.
///
/// `POST /exec/:id/start?tty=…&stays=…` then upgrades the connection (`Upgrade: tcp`, 101) to the command's stream.
/// With a terminal the stream is raw. Otherwise it consists of frames: an 8-byte header (stream 1 or 2, three zero
/// bytes, big-endian length) followed by as many bytes of output. With `stays=true` the client declares that it keeps
/// its sending side open until it disconnects. ostler then ends the command when the client disconnects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatedExec {
    /// Id of the command.
    pub id: String,
}

/// `POST /exec/:id/resize`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResizeExec {
    /// Width in characters.
    pub columns: u16,
    /// Height in lines.
    pub rows: u16,
}

/// `GET /exec/:id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecStatus {
    /// Exit code; null while the command runs.
    pub exit_code: Option<i32>,
}
