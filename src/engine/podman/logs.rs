//! Logs of containers: from their file, or from the service.

use std::{collections::VecDeque, future::ready};

use futures_util::{FutureExt, StreamExt, TryFutureExt, TryStreamExt, stream};
use hyper::Method;
use podman_api::{conn::TtyChunk, opts::ContainerLogsOpts};
use tokio::sync::mpsc;

use super::{
    super::{EngineResult, LogChunk, LogRequest, LogStream},
    client::{Podman, off_thread},
    convert::{LogInspection, LogSource},
    errors::Failure,
    log_file::{self, LogFile},
    processes::Conmon,
};
use crate::domain::ids::ContainerId;

/// Reads the log's file if it is readable here, without the service; see `log_file`.
///
/// podman-api sends its log request only when first polled, so that this call could not report a missing container.
/// The container is therefore inspected first.
pub(super) async fn read(podman: &Podman, id: &ContainerId, request: LogRequest) -> EngineResult<LogStream> {
    let call = format!("read the log of container {}", id.short());
    let target = format!("/libpod/containers/{id}/json");
    let found = podman.raw.json::<LogInspection>(Method::GET, &target, None).await;
    let LogSource { path, may_grow, conmon } = found.map_err(podman.failed(call.as_str()))?.into();
    let writer = conmon.filter(|_| may_grow).and_then(|process| Conmon::find(process, id));
    if !request.follow || !may_grow || writer.is_some() {
        let request = LogRequest { follow: request.follow && may_grow, ..request };
        let container = id.clone();
        let opened = off_thread(&call, move || LogFile::open(&path?, &container, request)).await?;
        if let Some(log) = opened {
            return Ok(log_file::stream(log, writer, call));
        }
    }
    Ok(by_service(podman, id, request, call))
}

/// Output of a container as the service sends it, for logs whose file cannot be read here.
///
/// The service computes a tail in time quadratic in the length of a line and in the number of lines. It continues
/// after the caller has disconnected, and leaks a goroutine. The service sends a whole log in linear time, and
/// stops when the caller disconnects. The whole log is therefore requested, and cut to its tail here. A tail is
/// requested from the service only for a followed log.
fn by_service(podman: &Podman, id: &ContainerId, request: LogRequest, call: String) -> LogStream {
    let LogRequest { tail, follow, max_bytes } = request;
    let options = ContainerLogsOpts::builder().stdout(true).stderr(true).follow(follow);
    match tail {
        Some(lines) if follow => log_stream(&podman.api, id, options.tail(lines.to_string()).build(), call),
        None => log_stream(&podman.api, id, options.build(), call),
        Some(lines) => {
            let max_bytes = max_bytes.unwrap_or(log_file::TAIL_MAX_BYTES);
            let whole = log_stream(&podman.api, id, options.build(), call);
            last_lines(whole, lines, usize::try_from(max_bytes).unwrap_or(usize::MAX))
        }
    }
}

/// Output of a container as an owned stream.
///
/// podman-api's stream borrows the handle that created it. Both therefore live in one future, which passes each chunk
/// through a channel of capacity one. The future is polled as part of the stream that it feeds.
fn log_stream(
    api: &podman_api::Podman,
    id: &ContainerId,
    options: ContainerLogsOpts,
    call: String,
) -> LogStream {
    let container = api.containers().get(id.as_str());
    let (pieces, received) = mpsc::channel(1);
    let feed = async move {
        let mut log = container.logs(&options);
        while let Some(piece) = log.next().await {
            if pieces.send(piece).await.is_err() {
                break;
            }
        }
    };
    let received = stream::unfold(received, |mut received| async {
        received.recv().await.map(|piece| (piece, received))
    });
    let feed = feed.into_stream().filter_map(|()| ready(None));
    Box::pin(
        stream::select(received, feed)
            .map(move |piece| piece.map(log_chunk).map_err(|error| Failure::from(error).of(call.as_str()))),
    )
}

/// The last `lines` lines of a log that is read to its end, limited to `max_bytes` bytes.
fn last_lines(log: LogStream, lines: u32, max_bytes: usize) -> LogStream {
    let kept =
        log.try_fold((LogTail::default(), [false; 2]), move |(mut tail, mut inside), chunk| async move {
            let stream = usize::from(chunk.stderr);
            let begins = !std::mem::replace(&mut inside[stream], !chunk.bytes.ends_with(b"\n"));
            tail.push(chunk, begins, lines, max_bytes);
            Ok((tail, inside))
        });
    let kept = kept.map_ok(|(tail, _)| stream::iter(tail.chunks.into_iter().map(|(chunk, _)| Ok(chunk))));
    Box::pin(kept.try_flatten_stream())
}

/// The last chunks of a log, each with a flag: whether a line starts with the chunk.
#[derive(Default)]
struct LogTail {
    chunks: VecDeque<(LogChunk, bool)>,
    lines: usize,
    bytes: usize,
}

impl LogTail {
    fn push(&mut self, chunk: LogChunk, begins: bool, lines: u32, max_bytes: usize) {
        if !begins && self.chunks.is_empty() {
            // The chunk continues a line whose start was discarded.
            return;
        }
        self.lines += usize::from(begins);
        self.bytes += chunk.bytes.len();
        self.chunks.push_back((chunk, begins));
        while self.lines > usize::try_from(lines).unwrap_or(usize::MAX) {
            self.pop();
            self.lines -= 1;
            while self.chunks.front().is_some_and(|(_, begins)| !begins) {
                self.pop();
            }
        }
        while self.bytes > max_bytes {
            self.pop();
            match self.chunks.front_mut() {
                // This chunk is now the start of what remains of the first line.
                Some((_, begins)) if !*begins => *begins = true,
                Some(_) | None => self.lines -= 1,
            }
        }
    }

    fn pop(&mut self) {
        if let Some((chunk, _)) = self.chunks.pop_front() {
            self.bytes -= chunk.bytes.len();
        }
    }
}

fn log_chunk(piece: TtyChunk) -> LogChunk {
    match piece {
        TtyChunk::StdErr(bytes) => LogChunk { stderr: true, bytes },
        TtyChunk::StdIn(bytes) | TtyChunk::StdOut(bytes) => LogChunk { stderr: false, bytes },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tail_of_a_whole_log_is_limited_by_lines_and_bytes() {
        let cut = async |pieces: &[&str], lines, max_bytes| {
            let chunk = |piece: &&str| Ok(LogChunk { stderr: false, bytes: piece.as_bytes().to_vec() });
            let log = Box::pin(stream::iter(pieces.iter().map(chunk).collect::<Vec<_>>()));
            let kept: Vec<_> = last_lines(log, lines, max_bytes).try_collect().await.unwrap();
            kept.iter().map(|chunk| String::from_utf8_lossy(&chunk.bytes).into_owned()).collect::<String>()
        };
        let log = ["one\n", "tw", "o\n", "thr", "ee"];
        for (lines, kept) in [(0, ""), (1, "three"), (2, "two\nthree"), (3, "one\ntwo\nthree")] {
            assert_eq!(cut(&log, lines, 100).await, kept, "{lines} lines");
        }
        assert_eq!(cut(&log, 1, 3).await, "ee");
        assert_eq!(cut(&["a", "b", "c", "d\n", "e\n"], 1, 3).await, "e\n");
        assert_eq!(cut(&["a", "b", "c", "d\n", "e\n"], 2, 3).await, "e\n");
        assert_eq!(cut(&["a", "b", "c", "d\n", "e\n"], 2, 4).await, "d\ne\n");
        assert_eq!(cut(&["long\n"], 2, 3).await, "");
    }
}
