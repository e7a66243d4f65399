//! `ostler logs`

use serde::Serialize;

use crate::cli::{
    Session,
    args::LogsArgs,
    client::workspace,
    failure::Failure,
    frames::{Channel, Frames, Lines},
    output,
};

/// A line of `logs --json`.
#[derive(Serialize)]
struct LogLine {
    stream: &'static str,
    line: String,
}

pub(in crate::cli) async fn run(session: &Session<'_>, args: &LogsArgs) -> Result<u8, Failure> {
    let tail = args.tail.map(|lines| format!("&tail={lines}")).unwrap_or_default();
    let path = format!("{}/logs?follow={}{tail}", workspace(&args.name), args.follow);
    let mut stream = session.client.stream(&path, None).await?;
    let (mut frames, mut lines) = (Frames::default(), LogLines::default());
    while let Some(bytes) = stream.next().await? {
        for (channel, part) in frames.feed(&bytes).map_err(anyhow::Error::from)? {
            if session.out.json() {
                for line in lines.feed(channel, part) {
                    session.out.value_line(&line)?;
                }
            } else {
                pass_on(session, channel, part)?;
            }
        }
    }
    for line in lines.rest() {
        session.out.value_line(&line)?;
    }
    Ok(0)
}

/// Hands bytes of a command on to where they belong.
pub(super) fn pass_on(session: &Session<'_>, channel: Channel, bytes: &[u8]) -> Result<(), Failure> {
    match channel {
        Channel::Stdout => session.out.bytes(bytes),
        Channel::Stderr => {
            output::error_bytes(bytes);
            Ok(())
        }
    }
}

/// The lines of both outputs; a line may come in several frames.
#[derive(Default)]
struct LogLines {
    out: Lines,
    err: Lines,
}

impl LogLines {
    fn feed(&mut self, channel: Channel, bytes: &[u8]) -> Vec<LogLine> {
        let lines = match channel {
            Channel::Stdout => self.out.feed(bytes),
            Channel::Stderr => self.err.feed(bytes),
        };
        lines.into_iter().map(|line| LogLine { stream: channel.as_str(), line }).collect()
    }

    fn rest(self) -> Vec<LogLine> {
        [(Channel::Stdout, self.out.rest()), (Channel::Stderr, self.err.rest())]
            .into_iter()
            .filter_map(|(channel, line)| Some(LogLine { stream: channel.as_str(), line: line? }))
            .collect()
    }
}
