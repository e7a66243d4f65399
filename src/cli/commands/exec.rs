//! `ostler exec`

use std::{
    io::{self, IsTerminal as _},
    pin::pin,
    time::Duration,
};

use anyhow::Context as _;
use clap::builder::NonEmptyStringValueParser;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf},
    signal::unix::{SignalKind, signal},
};

use crate::{
    api::exec::{CreateExec, CreatedExec, ExecStatus, ResizeExec},
    cli::{
        client::{Pipe, workspace},
        failure::{Exit, Failure},
        frames::{Channel, Frames},
        inputs::environment,
        session::Session,
        terminal::{self, RawMode},
    },
};

use super::logs::pass_on;

/// Run a command in a workspace's container
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The exit code is that of the command. Standard input is forwarded only with `-i` or `-t`.
If this client is terminated, the command is terminated too. With `-i`, this happens when the command
next writes output.

Examples:
  ostler exec builder -- ls -l /workspace
  ostler exec builder -- tar cz /workspace > backup.tar.gz
  ostler exec -i builder -- tar xz -C /workspace < backup.tar.gz
  ostler exec -t builder -- top")]
pub(in crate::cli) struct Args {
    /// Name, id or prefix of the id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: String,
    /// Forward standard input
    #[arg(long, short)]
    interactive: bool,
    /// Allocate a terminal for the command and forward its input
    #[arg(long, short)]
    tty: bool,
    /// Environment variable of the command; without `=VALUE`, the value is taken from this shell's environment
    #[arg(long, short, value_name = "KEY[=VALUE]")]
    env: Vec<String>,
    /// User to run as, such as `0:0` [default: the agent's user]
    #[arg(long, short)]
    user: Option<String>,
    /// Command to run, with its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    command: Vec<String>,
}

/// How many times the exit code is queried after a command's stream has ended: 2 s in total.
const EXIT_CODE_CHECKS: u32 = 40;
const EXIT_CODE_CHECK_INTERVAL: Duration = Duration::from_millis(50);

pub(in crate::cli) async fn run(session: &Session<'_>, args: Args) -> Result<u8, Failure> {
    let request = CreateExec {
        env: environment(&args.env)?.into_iter().collect(),
        command: args.command,
        tty: args.tty,
        // Input is not forwarded by default, for two reasons: the command would consume the rest of the input of a
        // script or loop around it, and Podman drops the output of a command that ends before it has read its input.
        stdin: args.tty || args.interactive,
        user: args.user,
    };
    execute(session, &args.name, request).await
}

/// Runs a command with this process's terminal or pipes attached, and returns the command's exit code.
pub(super) async fn execute(
    session: &Session<'_>,
    name: &str,
    mut request: CreateExec,
) -> Result<u8, Failure> {
    if request.tty {
        if !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
            let why = "standard input and output are not both a terminal";
            return Err(Failure::new(Exit::Usage, why).next("use `ostler exec` without `-t`"));
        }
        if let Ok(term) = std::env::var("TERM") {
            request.env.entry("TERM".to_owned()).or_insert(term);
        }
    }
    let path = format!("{}/exec", workspace(name));
    let CreatedExec { id } = session.client.post(&path, &request).await?;
    // Whether the input stays open until the command ends. With `-i` and no terminal, it may end earlier.
    let stays = request.tty || !request.stdin;
    let path = format!("/exec/{id}/start?tty={}&stays={stays}", request.tty);
    let pipe = session.client.upgrade(&path).await?;
    let (from_command, to_command) = tokio::io::split(pipe);
    let output = async {
        if request.tty {
            copy_terminal(session, from_command).await.map(|()| None)
        } else {
            copy_frames(session, from_command).await
        }
    };
    let input = async {
        let mut to_command = to_command;
        if request.stdin {
            // Copies until the input ends or the command no longer reads; neither is an error.
            drop(tokio::io::copy(&mut tokio::io::stdin(), &mut to_command).await);
        }
        if !stays {
            drop(to_command.shutdown().await);
        }
        // Waits forever, because the end of the input does not end the command.
        std::future::pending::<()>().await;
    };
    if request.tty {
        let raw = RawMode::enter().context("the terminal cannot be set up")?;
        let ended = tokio::select! {
            ended = output => ended.map(drop),
            () = input => Ok(()),
            () = follow_size(session, &id) => Ok(()),
            ended = ending_signal() => ended,
        };
        drop(raw);
        ended?;
        return exit_code(session, &id).await;
    }
    let broken = tokio::select! {
        ended = output => ended?,
        () = input => None,
    };
    let code = exit_code(session, &id).await?;
    match broken {
        // A non-zero exit code takes precedence over incomplete output.
        Some(why) if code == 0 => {
            let what = format!("the command ended with exit code 0, but its output may be incomplete: {why}");
            Err(Failure::new(Exit::Failed, what)
                .next("run it without `-i`, or let it read its input to the end (`; cat >/dev/null`)"))
        }
        Some(_) | None => Ok(code),
    }
}

/// Copies the command's output. Returns Podman's error if Podman reports that the output broke off.
async fn copy_frames(session: &Session<'_>, mut from: ReadHalf<Pipe>) -> Result<Option<String>, Failure> {
    let mut frames = Frames::default();
    let mut buffer = vec![0; 32 * 1024];
    let mut last = LastStderr::default();
    loop {
        let length = from.read(&mut buffer).await.context("the command's stream cannot be read")?;
        if length == 0 {
            frames.finish().map_err(anyhow::Error::from)?;
            return Ok(last.of_the_engine());
        }
        for (channel, part) in frames.feed(&buffer[..length]).map_err(anyhow::Error::from)? {
            last.feed(channel, part);
            pass_on(session, channel, part)?;
        }
    }
}

/// The last bytes of a command's standard error, if no standard output followed them.
#[derive(Default)]
struct LastStderr(Vec<u8>);

impl LastStderr {
    /// Maximum number of bytes kept. Podman's error message is shorter.
    const MOST: usize = 512;

    fn feed(&mut self, channel: Channel, bytes: &[u8]) {
        match channel {
            Channel::Stdout => self.0.clear(),
            Channel::Stderr => {
                self.0.extend_from_slice(bytes);
                self.0.drain(..self.0.len().saturating_sub(Self::MOST));
            }
        }
    }

    /// Returns the error that Podman appends to a command's standard error when its own connection to the command
    /// broke. Podman reports this loss nowhere else: the exit code is 0, and output that was not yet passed on is lost.
    fn of_the_engine(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.0);
        let line = text.strip_suffix('\n')?.lines().next_back()?;
        // On the same line, output of the command that does not end with a line feed may precede the error.
        let (_, reason) = line.rsplit_once("Error: ")?;
        let is_podmans =
            ["read unixpacket @->", "write unixpacket @->"].iter().any(|how| reason.starts_with(how))
                && reason.contains("/attach: ");
        is_podmans.then(|| reason.to_owned())
    }
}

async fn copy_terminal(session: &Session<'_>, mut from: ReadHalf<Pipe>) -> Result<(), Failure> {
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let length = from.read(&mut buffer).await.context("the command's stream cannot be read")?;
        if length == 0 {
            return Ok(());
        }
        session.out.bytes(&buffer[..length])?;
    }
}

/// Sends the size of the user's terminal to the command's terminal, now and at every change. Errors are ignored: they
/// affect only the layout of the output.
async fn follow_size(session: &Session<'_>, id: &str) {
    let Ok(mut changes) = signal(SignalKind::window_change()) else { return std::future::pending().await };
    let path = format!("/exec/{id}/resize");
    loop {
        if let Some((columns, rows)) = terminal::size() {
            drop(session.client.post::<serde_json::Value>(&path, &ResizeExec { columns, rows }).await);
        }
        changes.recv().await;
    }
}

/// Waits for SIGTERM or SIGHUP. Their default action would kill this process and leave the terminal in raw mode.
async fn ending_signal() -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate()).context("a signal handler cannot be installed")?;
    let mut hang_up = signal(SignalKind::hangup()).context("a signal handler cannot be installed")?;
    let (terminate, hang_up) = (pin!(terminate.recv()), pin!(hang_up.recv()));
    futures_util::future::select(terminate, hang_up).await;
    Err(Failure::new(Exit::Failed, "terminated by a signal; the command in the container is terminated too"))
}

/// Polls for the exit code: the engine may have it only some time after the stream has ended.
async fn exit_code(session: &Session<'_>, id: &str) -> Result<u8, Failure> {
    let mut checks = tokio::time::interval(EXIT_CODE_CHECK_INTERVAL);
    for _ in 0..EXIT_CODE_CHECKS {
        checks.tick().await;
        let status: ExecStatus = session.client.get(&format!("/exec/{id}")).await?;
        if let Some(code) = status.exit_code {
            // The exit code of this process has one byte; a value that does not fit is reported as 1.
            return Ok(u8::try_from(code).unwrap_or(1));
        }
    }
    Err(Failure::new(Exit::Failed, "the stream ended, but the command is still running in the container")
        .next("the workspace or the engine closed the stream: see `ostler why NAME`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engine_error_is_distinguished_from_command_output() {
        let last = |parts: &[(Channel, &str)]| {
            let mut last = LastStderr::default();
            for (channel, part) in parts {
                last.feed(*channel, part.as_bytes());
            }
            last.of_the_engine()
        };
        let reason = "read unixpacket @->/proc/self/fd/16/attach: read: connection reset by peer";
        let line = format!("Error: {reason}\n");
        assert_eq!(last(&[(Channel::Stderr, &line)]).as_deref(), Some(reason));
        let (begin, rest) = line.split_at(20);
        assert_eq!(
            last(&[(Channel::Stderr, "own"), (Channel::Stderr, begin), (Channel::Stderr, rest)]).as_deref(),
            Some(reason)
        );
        assert_eq!(last(&[(Channel::Stderr, &line), (Channel::Stdout, "more")]), None);
        assert_eq!(last(&[(Channel::Stderr, "Error: no such file\n")]), None);
        assert_eq!(last(&[]), None);
    }
}
