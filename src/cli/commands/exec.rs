//! `ostler exec`

use std::{
    io::{self, IsTerminal as _},
    pin::pin,
    time::Duration,
};

use anyhow::Context as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf},
    signal::unix::{SignalKind, signal},
};

use crate::{
    api::{CreateExec, CreatedExec, ExecStatus, ResizeExec},
    cli::{
        Session,
        args::ExecArgs,
        client::{Pipe, workspace},
        failure::{Exit, Failure},
        frames::Frames,
        terminal::{self, RawMode},
    },
};

use super::{create::environment, logs::pass_on};

/// How long the exit code may be missing after a command's stream has ended.
const CODE_LOOKS: u32 = 40;
const CODE_LOOK_EVERY: Duration = Duration::from_millis(50);

pub(in crate::cli) async fn run(session: &Session<'_>, args: ExecArgs) -> Result<u8, Failure> {
    let request = CreateExec {
        env: environment(&args.env)?.into_iter().collect(),
        command: args.command,
        tty: args.tty,
        stdin: args.tty || args.interactive || !io::stdin().is_terminal(),
        user: args.user,
    };
    execute(session, &args.name, request).await
}

/// Runs a command and becomes its terminal, or its pipes. The answer is the command's exit code.
pub(super) async fn execute(
    session: &Session<'_>,
    name: &str,
    mut request: CreateExec,
) -> Result<u8, Failure> {
    if request.tty {
        if !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
            let why = "there is no terminal here to give to the command";
            return Err(Failure::new(Exit::Usage, why).next("use `ostler exec` without `-t`"));
        }
        if let Ok(term) = std::env::var("TERM") {
            request.env.entry("TERM".to_owned()).or_insert(term);
        }
    }
    let path = format!("{}/exec", workspace(name));
    let CreatedExec { id } = session.client.post(&path, &request).await?;
    let pipe = session.client.upgrade(&format!("/exec/{id}/start?tty={}", request.tty)).await?;
    let (from_command, to_command) = tokio::io::split(pipe);
    let output = async {
        if request.tty {
            copy_terminal(session, from_command).await
        } else {
            copy_frames(session, from_command).await
        }
    };
    let input = async {
        if request.stdin {
            send_input(to_command).await;
        } else {
            close(to_command).await;
        }
        // The command decides when it ends, not its input.
        std::future::pending::<()>().await;
    };
    if request.tty {
        let raw = RawMode::enter().context("the terminal cannot be set up")?;
        let ended = tokio::select! {
            ended = output => ended,
            () = input => Ok(()),
            () = follow_size(session, &id) => Ok(()),
            ended = ending_signal() => ended,
        };
        drop(raw);
        ended?;
    } else {
        tokio::select! {
            ended = output => ended?,
            () = input => {}
        }
    }
    exit_code(session, &id).await
}

async fn copy_frames(session: &Session<'_>, mut from: ReadHalf<Pipe>) -> Result<(), Failure> {
    let mut frames = Frames::default();
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let length = from.read(&mut buffer).await.context("the command's stream broke off")?;
        if length == 0 {
            return Ok(());
        }
        for (channel, part) in frames.feed(&buffer[..length]).map_err(anyhow::Error::from)? {
            pass_on(session, channel, part)?;
        }
    }
}

async fn copy_terminal(session: &Session<'_>, mut from: ReadHalf<Pipe>) -> Result<(), Failure> {
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let length = from.read(&mut buffer).await.context("the command's stream broke off")?;
        if length == 0 {
            return Ok(());
        }
        session.out.bytes(&buffer[..length])?;
    }
}

/// Until our input ends, or the command no longer reads; neither is an error.
async fn send_input(mut to: WriteHalf<Pipe>) {
    drop(tokio::io::copy(&mut tokio::io::stdin(), &mut to).await);
    close(to).await;
}

/// Tells the command that its input has ended.
async fn close(mut to: WriteHalf<Pipe>) {
    drop(to.shutdown().await);
}

/// Tells the command's terminal its size, now and at every change. Only looks suffer if that fails.
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

/// Being killed would leave the terminal raw: these are waited for, and end us in good order.
async fn ending_signal() -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate()).context("signals cannot be waited for")?;
    let mut hang_up = signal(SignalKind::hangup()).context("signals cannot be waited for")?;
    let (terminate, hang_up) = (pin!(terminate.recv()), pin!(hang_up.recv()));
    futures_util::future::select(terminate, hang_up).await;
    Err(Failure::new(Exit::Failed, "ended by a signal; the command may still run inside"))
}

/// The engine may know the code a moment after the stream has ended.
async fn exit_code(session: &Session<'_>, id: &str) -> Result<u8, Failure> {
    let mut looks = tokio::time::interval(CODE_LOOK_EVERY);
    for _ in 0..CODE_LOOKS {
        looks.tick().await;
        let status: ExecStatus = session.client.get(&format!("/exec/{id}")).await?;
        if let Some(code) = status.exit_code {
            // Processes only have the low byte; what does not fit is a failure all the same.
            return Ok(u8::try_from(code).unwrap_or(1));
        }
    }
    Err(Failure::new(Exit::Failed, "the stream ended, but the command still runs inside")
        .next("the workspace or the engine cut it off: `ostler why` tells more"))
}
