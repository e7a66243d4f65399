//! Incremental parsers of three formats: frames that carry stdout and stderr in one stream, lines, and server-sent
//! events.
//!
//! A parser is given bytes as they arrive, in pieces that may end anywhere, and keeps an incomplete item until the next
//! piece.

use std::borrow::Cow;

/// The output stream that bytes belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Channel {
    Stdout,
    Stderr,
}

impl Channel {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Parses frames: a header of eight bytes (stream, three zeros, big-endian length), then the payload.
///
/// The payload is returned as it arrives, not when its frame is complete: a frame may be large.
#[derive(Debug, Default)]
pub(super) struct Frames {
    header: Vec<u8>,
    current: Option<(Channel, u32)>,
}

/// The stream does not consist of frames.
#[derive(Debug, thiserror::Error)]
#[error("the stream cannot be read: a frame begins with \"{}\"", .0.escape_ascii())]
pub(super) struct NoFrame(Vec<u8>);

/// The stream ended within a frame.
#[derive(Debug, thiserror::Error)]
#[error("the command's stream was cut off: a part of its output is missing")]
pub(super) struct CutOff;

impl Frames {
    const HEADER: usize = 8;

    /// Returns the parts of payloads that `bytes` contains.
    ///
    /// # Errors
    /// If a frame header is invalid.
    pub(super) fn feed<'a>(&mut self, mut bytes: &'a [u8]) -> Result<Vec<(Channel, &'a [u8])>, NoFrame> {
        let mut parts = Vec::new();
        while !bytes.is_empty() {
            match self.current.take() {
                Some((channel, left)) => {
                    let length = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    let (part, rest) = bytes.split_at(length);
                    parts.push((channel, part));
                    bytes = rest;
                    let left = left - u32::try_from(length).unwrap_or(left);
                    self.current = (left > 0).then_some((channel, left));
                }
                None => bytes = self.header(bytes)?,
            }
        }
        Ok(parts)
    }

    /// Checks the end of the stream.
    ///
    /// # Errors
    /// If the stream ended within a frame, so that a part of the output is missing.
    pub(super) fn finish(&self) -> Result<(), CutOff> {
        if self.current.is_none() && self.header.is_empty() { Ok(()) } else { Err(CutOff) }
    }

    fn header<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], NoFrame> {
        let missing = Self::HEADER - self.header.len();
        let (part, rest) = bytes.split_at(missing.min(bytes.len()));
        self.header.extend_from_slice(part);
        if let [stream, 0, 0, 0, length @ ..] = self.header.as_slice()
            && let Ok(length) = <[u8; 4]>::try_from(length)
        {
            let channel = match stream {
                1 => Channel::Stdout,
                2 => Channel::Stderr,
                _ => return Err(NoFrame(self.header.clone())),
            };
            let length = u32::from_be_bytes(length);
            self.current = (length > 0).then_some((channel, length));
            self.header.clear();
        } else if self.header.len() == Self::HEADER {
            return Err(NoFrame(self.header.clone()));
        }
        Ok(rest)
    }
}

/// Splits bytes into lines. The time for a line is linear in its length, regardless of the number of pieces that it
/// arrives in.
#[derive(Debug, Default)]
pub(super) struct Lines(Vec<u8>);

impl Lines {
    /// Returns the lines that `bytes` completes, without their line endings.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        let mut rest = bytes;
        // Only the new bytes are searched.
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (part, behind) = rest.split_at(end);
            rest = &behind[1..];
            let line = if self.0.is_empty() {
                Cow::Borrowed(part)
            } else {
                self.0.extend_from_slice(part);
                Cow::Owned(std::mem::take(&mut self.0))
            };
            lines.push(String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(&line)).into_owned());
        }
        self.0.extend_from_slice(rest);
        lines
    }

    /// Returns the last line if it has no line ending.
    pub(super) fn rest(self) -> Option<String> {
        (!self.0.is_empty()).then(|| String::from_utf8_lossy(&self.0).into_owned())
    }
}

/// Parses server-sent events. Returns only their data, because ostler repeats an event's id and type in its data.
#[derive(Debug, Default)]
pub(super) struct Sse {
    lines: Lines,
    data: Vec<String>,
}

impl Sse {
    /// Returns the data of every event that `bytes` completes.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut complete = Vec::new();
        for line in self.lines.feed(bytes) {
            if line.is_empty() {
                let data = std::mem::take(&mut self.data);
                complete.extend((!data.is_empty()).then(|| data.join("\n")));
            } else if let Some(data) = line.strip_prefix("data:") {
                self.data.push(data.strip_prefix(' ').unwrap_or(data).to_owned());
            }
        }
        complete
    }

    /// Returns the data of the last event if the stream ended before the empty line that completes an event.
    pub(super) fn finish(mut self) -> Option<String> {
        self.feed(b"\n\n").pop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `bytes` in pieces of `size`, and joins the parsed payloads by channel.
    fn read(bytes: &[u8], size: usize) -> (Vec<u8>, Vec<u8>) {
        let (mut frames, mut out, mut err) = (Frames::default(), Vec::new(), Vec::new());
        for piece in bytes.chunks(size) {
            for (channel, part) in frames.feed(piece).unwrap() {
                match channel {
                    Channel::Stdout => out.extend_from_slice(part),
                    Channel::Stderr => err.extend_from_slice(part),
                }
            }
        }
        (out, err)
    }

    #[test]
    fn frames_are_decoded_at_every_chunk_boundary() {
        let stream =
            b"\x01\0\0\0\0\0\0\x03one\x02\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\x04oops\x01\0\0\0\0\0\0\x02!\n";
        for size in 1..=stream.len() {
            assert_eq!(read(stream, size), (b"one!\n".to_vec(), b"oops".to_vec()), "in pieces of {size}");
        }
    }

    #[test]
    fn invalid_frame_header_is_refused() {
        assert!(Frames::default().feed(b"HTTP/1.1").is_err());
        assert!(Frames::default().feed(b"\x09\0\0\0\0\0\0\x01").is_err());
    }

    #[test]
    fn sse_parser_handles_every_chunk_boundary_and_skips_comments() {
        let stream =
            b": hello\n\nid: 7\nevent: X\ndata: {\"a\":\ndata: 1}\n\nid: 8\r\ndata:2\r\n\r\ndata: cut";
        for size in 1..=stream.len() {
            let mut sse = Sse::default();
            let events: Vec<_> = stream.chunks(size).flat_map(|piece| sse.feed(piece)).collect();
            assert_eq!(events, ["{\"a\":\n1}", "2"], "in pieces of {size}");
            assert_eq!(sse.finish().as_deref(), Some("cut"), "in pieces of {size}");
        }
    }
}
