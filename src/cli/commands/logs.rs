//! `ostler logs`

use std::io::{self, IsTerminal as _};

use clap::builder::NonEmptyStringValueParser;
use serde::Serialize;

use crate::{
    cli::{
        client::workspace,
        failure::Failure,
        frames::{Channel, Frames, Lines},
        output,
        session::Session,
    },
    domain::text::{Layout, terminal_safe},
};

/// Print the output of a workspace's container
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The container's standard error is printed to this command's standard error.
With `--json`, one object per line: {\"stream\": \"stdout\", \"line\": \"…\"}.

Examples:
  ostler logs builder --tail 100
  ostler logs -f builder")]
pub(in crate::cli) struct Args {
    /// Name, id or prefix of the id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: String,
    /// Continue to print new output
    #[arg(long, short)]
    follow: bool,
    /// Print only the last LINES lines; at most the last 16 MiB of the log are read
    #[arg(long, short = 'n', value_name = "LINES", allow_negative_numbers = true)]
    tail: Option<u32>,
}

/// A line of `logs --json`.
#[derive(Serialize)]
struct LogLine {
    stream: &'static str,
    line: String,
}

pub(in crate::cli) async fn run(session: &Session<'_>, args: &Args) -> Result<u8, Failure> {
    let tail = args.tail.map(|lines| format!("&tail={lines}")).unwrap_or_default();
    let path = format!("{}/logs?follow={}{tail}", workspace(&args.name), args.follow);
    let mut stream = session.client.stream(&path, None).await?;
    let (mut frames, mut lines, mut terminal) =
        (Frames::default(), LogLines::default(), ForTerminal::default());
    let show = |channel, text: String| pass_on(session, channel, text.as_bytes());
    while let Some(bytes) = stream.next().await? {
        for (channel, part) in frames.feed(&bytes).map_err(anyhow::Error::from)? {
            if session.out.json() {
                for line in lines.feed(channel, part) {
                    session.out.value_line(&line)?;
                }
            } else if is_terminal(channel) {
                show(channel, terminal.feed(channel, part))?;
            } else {
                pass_on(session, channel, part)?;
            }
        }
    }
    for line in lines.rest() {
        session.out.value_line(&line)?;
    }
    for (channel, text) in terminal.rest() {
        show(channel, text)?;
    }
    Ok(0)
}

/// Whether a channel is written to a terminal. Files and pipes get the bytes unchanged.
fn is_terminal(channel: Channel) -> bool {
    match channel {
        Channel::Stdout => io::stdout().is_terminal(),
        Channel::Stderr => io::stderr().is_terminal(),
    }
}

/// Makes output safe for a terminal as it arrives. An incomplete character or escape sequence at the end of a piece is
/// held back until the next piece.
#[derive(Default)]
struct ForTerminal {
    out: Vec<u8>,
    err: Vec<u8>,
}

impl ForTerminal {
    fn feed(&mut self, channel: Channel, bytes: &[u8]) -> String {
        let kept = match channel {
            Channel::Stdout => &mut self.out,
            Channel::Stderr => &mut self.err,
        };
        kept.extend_from_slice(bytes);
        let rest = kept.split_off(whole_until(kept));
        let text = std::mem::replace(kept, rest);
        terminal_safe(&String::from_utf8_lossy(&text), Layout::Lines).into_owned()
    }

    /// Returns the text that is still held back at the end.
    fn rest(self) -> [(Channel, String); 2] {
        let safe = |bytes: &[u8]| terminal_safe(&String::from_utf8_lossy(bytes), Layout::Lines).into_owned();
        [(Channel::Stdout, safe(&self.out)), (Channel::Stderr, safe(&self.err))]
    }
}

/// An incomplete escape sequence is held back if it begins within this many bytes before the end.
const HELD_BACK: usize = 64;

/// Returns the length of the part that can be printed without knowing the bytes that follow: it ends neither within a
/// character nor within an escape sequence.
fn whole_until(bytes: &[u8]) -> usize {
    let near_end = bytes.len().saturating_sub(HELD_BACK);
    if let Some(from) = bytes[near_end..].iter().rposition(|byte| *byte == 0x1b) {
        let sequence = &bytes[near_end + from..];
        let is_open = match sequence {
            [_] => true,
            [_, b'[', parameters @ ..] => parameters.iter().all(|byte| matches!(byte, b' '..=b'?')),
            _ => false,
        };
        if is_open {
            return near_end + from;
        }
    }
    if bytes.ends_with(b"\r") {
        // If a line feed follows this carriage return, both are one line ending.
        return bytes.len() - 1;
    }
    match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        Ok(_) | Err(_) => bytes.len(),
    }
}

/// Writes bytes of a command unchanged to standard output or standard error.
pub(super) fn pass_on(session: &Session<'_>, channel: Channel, bytes: &[u8]) -> Result<(), Failure> {
    match channel {
        Channel::Stdout => session.out.bytes(bytes),
        Channel::Stderr => {
            output::error_bytes(bytes);
            Ok(())
        }
    }
}

/// Splits both outputs into lines. A line may arrive in several frames.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_output_is_sanitized_at_every_chunk_boundary() {
        let log = "plain é\r\n\x1b[31mred\x1b[0m \x1b]0;title\x07 100%\r\u{202e}x\n".as_bytes();
        let whole = terminal_safe(std::str::from_utf8(log).unwrap(), Layout::Lines).into_owned();
        for size in 1..=log.len() {
            let mut terminal = ForTerminal::default();
            let mut text = String::new();
            for piece in log.chunks(size) {
                text += &terminal.feed(Channel::Stdout, piece);
            }
            let [(_, rest), _] = terminal.rest();
            assert_eq!(text + &rest, whole, "in pieces of {size}");
        }
        assert!(!whole.contains(['\x1b', '\x07', '\r', '\u{202e}']), "{whole:?}");
    }
}
