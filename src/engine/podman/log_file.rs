//! A container's log file, read on this host instead of through Podman's service.
//!
//! Podman 4.3's service joins the partial records of a long line by copying, once for each record and once for each
//! line of a requested tail. A tail of one 60 MB line occupies a core and gigabytes of memory without end, even after
//! the caller has disconnected. Every tail also leaks a goroutine. Reading the file instead does not involve the
//! service.
//!
//! The file is read only if its path contains the container's id and it can be opened: the path comes from Podman and
//! means nothing on another host or in another mount namespace. Otherwise the service is asked.
//!
//! conmon writes one record for each line, or for each 8 KiB of a line: `TIME STREAM F|P BYTES`. `P` marks a record
//! that does not end its line. At its size limit conmon replaces the file by a new, empty one and deletes the old one.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::stream;

use super::{
    super::{EngineResult, LogChunk, LogRequest, LogStream},
    client::off_thread,
    errors::file_error,
    processes::Conmon,
};
use crate::{
    domain::ids::ContainerId,
    runtime::clock::{Clock, SystemClock},
};

/// Bytes per read.
const BLOCK_BYTES: usize = 256 << 10;

/// A tail starts at most this many bytes before the end of the file, even if it then has fewer lines.
pub(super) const TAIL_MAX_BYTES: u64 = 16 << 20;

/// conmon's records have up to 8 KiB of content. A record that is longer than this limit was not written by conmon, and
/// is skipped.
const RECORD_MAX_BYTES: usize = 1 << 20;

/// Interval at which a file is checked for new data while a caller follows it.
const FOLLOW_EVERY: Duration = Duration::from_millis(200);

/// An open log file.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    /// Offset of the next block.
    position: u64,
    /// Offset at which reading ends; `None` while the file is followed.
    end: Option<u64>,
    /// For each stream: records that start before this offset belong to lines outside the tail.
    begins: [u64; 2],
    /// Start of a record whose end has not been read yet.
    pending: Vec<u8>,
    /// Whether the rest of an oversized record is being skipped.
    skipping: bool,
}

/// One record of a log.
#[derive(Debug, PartialEq, Eq)]
struct Record<'a> {
    stderr: bool,
    ends_line: bool,
    content: &'a [u8],
}

impl<'a> Record<'a> {
    /// Parses a record without its line feed; `None` if it is not a record.
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut fields = line.splitn(4, |byte| *byte == b' ');
        let (_time, stream, tag) = (fields.next()?, fields.next()?, fields.next()?);
        let stderr = match stream {
            b"stdout" => false,
            b"stderr" => true,
            _ => return None,
        };
        let ends_line = match tag.first()? {
            b'F' => true,
            b'P' => false,
            _ => return None,
        };
        Some(Self { stderr, ends_line, content: fields.next().unwrap_or_default() })
    }
}

/// Whether a log's path belongs to this container. If Podman runs on another host or in another mount namespace, the
/// path could name an unrelated file here.
fn belongs_to(path: &Path, container: &ContainerId) -> bool {
    path.is_absolute() && path.iter().any(|part| part == container.as_str())
}

impl LogFile {
    /// Opens a container's log file; `None` if it cannot be read here.
    pub(super) fn open(path: &Path, container: &ContainerId, request: LogRequest) -> Option<Self> {
        if !belongs_to(path, container) {
            return None;
        }
        let file = File::open(path).ok()?;
        let metadata = file.metadata().ok().filter(std::fs::Metadata::is_file)?;
        let size = metadata.len();
        let mut log = Self {
            path: path.to_owned(),
            file,
            position: 0,
            end: (!request.follow).then_some(size),
            begins: [0; 2],
            pending: Vec::new(),
            skipping: false,
        };
        if let Some(lines) = request.tail {
            let max_bytes = request.max_bytes.unwrap_or(TAIL_MAX_BYTES);
            log.seek_tail(lines, size, max_bytes).ok()?;
        }
        Some(log)
    }

    /// Finds the last `lines` lines before `end`. Searches a small part of the file first, which in most cases contains
    /// enough lines, and then larger ones.
    fn seek_tail(&mut self, lines: u32, end: u64, max_bytes: u64) -> io::Result<()> {
        let mut window = (BLOCK_BYTES as u64).min(max_bytes);
        loop {
            let from = end.saturating_sub(window);
            let tail = Tail::find(&self.file, from, end, lines)?;
            if tail.is_full || from == 0 || window >= max_bytes {
                (self.position, self.begins) = (tail.from, tail.begins);
                return Ok(());
            }
            window = window.saturating_mul(8).min(max_bytes);
        }
    }

    /// Reads the next block of this file. `false` if there is no more data at present.
    fn read(&mut self) -> io::Result<(Vec<LogChunk>, bool)> {
        let left = self.end.map_or(u64::MAX, |end| end.saturating_sub(self.position));
        let mut block = vec![0; usize::try_from(left).unwrap_or(usize::MAX).min(BLOCK_BYTES)];
        let length = if block.is_empty() { 0 } else { self.file.read_at(&mut block, self.position)? };
        let mut begin = self.position - self.pending.len() as u64;
        self.position += length as u64;
        let mut bytes = std::mem::take(&mut self.pending);
        bytes.extend_from_slice(&block[..length]);
        let mut chunks = Vec::new();
        let mut rest = bytes.as_slice();
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, behind) = rest.split_at(end);
            rest = &behind[1..];
            let skipped = std::mem::take(&mut self.skipping);
            if let Some(record) = Record::parse(line).filter(|_| !skipped)
                && begin >= self.begins[usize::from(record.stderr)]
            {
                append(&mut chunks, &record);
            }
            begin += end as u64 + 1;
        }
        self.pending = rest.to_vec();
        if self.pending.len() > RECORD_MAX_BYTES {
            self.pending.clear();
            self.skipping = true;
        }
        Ok((chunks, length > 0))
    }

    /// Reads the next block, also from the file that replaced this one. Empty with `false` if there is no more data at
    /// present.
    fn advance(&mut self) -> io::Result<(Vec<LogChunk>, bool)> {
        let (chunks, more) = self.read()?;
        if more || self.end.is_some() {
            return Ok((chunks, more));
        }
        let Some(successor) = self.successor()? else { return Ok((chunks, false)) };
        // conmon may have written to the old file until the replacement, so its end is read once more.
        let (last, more) = self.read()?;
        if !more {
            self.file = successor;
            (self.position, self.begins, self.skipping) = (0, [0; 2], false);
            self.pending.clear();
        }
        Ok((last, true))
    }

    /// The file that replaced this one, or this file if it was truncated.
    fn successor(&self) -> io::Result<Option<File>> {
        let here = self.file.metadata()?;
        let there = match std::fs::metadata(&self.path) {
            Ok(there) => there,
            // The container was deleted, or conmon is between deleting and creating the file.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if (here.dev(), here.ino()) != (there.dev(), there.ino()) {
            File::open(&self.path).map(Some)
        } else if here.len() < self.position {
            self.file.try_clone().map(Some)
        } else {
            Ok(None)
        }
    }
}

/// Appends a record. Consecutive records of one stream form one chunk.
fn append(chunks: &mut Vec<LogChunk>, record: &Record<'_>) {
    let ending: &[u8] = if record.ends_line { b"\n" } else { b"" };
    match chunks.last_mut() {
        Some(last) if last.stderr == record.stderr => {
            last.bytes.extend_from_slice(record.content);
            last.bytes.extend_from_slice(ending);
        }
        _ => chunks.push(LogChunk { stderr: record.stderr, bytes: [record.content, ending].concat() }),
    }
}

/// Offsets at which the last lines of a log start.
#[derive(Debug, PartialEq, Eq)]
struct Tail {
    /// Offset at which reading starts.
    from: u64,
    /// For each stream: records that start before this offset belong to lines outside the tail.
    begins: [u64; 2],
    /// Whether the tail contains all requested lines, each from its first record.
    is_full: bool,
}

impl Tail {
    /// Finds the last `lines` lines of a part of the file. A line counts if it starts in that part, even if it is
    /// unfinished.
    fn find(file: &File, from: u64, end: u64, lines: u32) -> io::Result<Self> {
        let wanted = usize::try_from(lines).unwrap_or(usize::MAX);
        let mut file = file;
        file.seek(SeekFrom::Start(from))?;
        let mut reader = BufReader::with_capacity(BLOCK_BYTES, file.take(end - from));
        let (mut at, mut line) = (from, Vec::new());
        // Unless it starts at the beginning of the file, reading probably starts in the middle of a record.
        let mut is_whole = from == 0;
        let mut inside = [false; 2];
        // For each stream: whether a record is known to start a line, and is not part of a line that started before
        // `from`.
        let mut is_known = [from == 0; 2];
        let mut starts: VecDeque<(u64, usize, bool)> = VecDeque::new();
        loop {
            line.clear();
            // The part of a record beyond the limit is read as a separate record, which fails to parse.
            let length = (&mut reader).take(RECORD_MAX_BYTES as u64).read_until(b'\n', &mut line)?;
            if length == 0 {
                break;
            }
            if at + length as u64 == end && line.last() != Some(&b'\n') {
                // The record is still being written. A follower reads it once it is complete.
                break;
            }
            if let Some(record) = Record::parse(&line).filter(|_| is_whole) {
                let stream = usize::from(record.stderr);
                if !inside[stream] {
                    starts.push_back((at, stream, is_known[stream]));
                    if starts.len() > wanted {
                        starts.pop_front();
                    }
                }
                inside[stream] = !record.ends_line;
                is_known[stream] |= record.ends_line;
            }
            is_whole = true;
            at += length as u64;
        }
        let first_of = |stream| starts.iter().find(|(_, of, _)| *of == stream).map_or(at, |(at, ..)| *at);
        Ok(Self {
            from: starts.front().map_or(at, |(at, ..)| *at),
            begins: [first_of(0), first_of(1)],
            is_full: starts.len() >= wanted && starts.iter().all(|(.., known)| *known),
        })
    }
}

/// Reads the file, and follows it as long as the process that writes it is alive.
pub(super) fn stream(log: LogFile, writer: Option<Conmon>, call: String) -> LogStream {
    let reading = Reading { log, writer, clock: SystemClock::start(), chunks: VecDeque::new(), call };
    Box::pin(stream::try_unfold(reading, |mut reading| async {
        if let Some(chunk) = reading.chunks.pop_front() {
            return Ok(Some((chunk, reading)));
        }
        reading.next().await
    }))
}

struct Reading {
    log: LogFile,
    writer: Option<Conmon>,
    clock: SystemClock,
    chunks: VecDeque<LogChunk>,
    call: String,
}

impl Reading {
    async fn next(mut self) -> EngineResult<Option<(LogChunk, Self)>> {
        loop {
            // Checked before reading: if the writer has already exited, this read gets everything that it wrote.
            let still_running = self.writer.as_ref().is_some_and(Conmon::is_alive) && self.log.end.is_none();
            let Self { mut log, call, .. } = self;
            let read =
                off_thread(&call, move || log.advance().map(|(chunks, more)| (log, chunks, more))).await?;
            let (log, chunks, more) = read.map_err(file_error(call.as_str()))?;
            self = Self { log, call, chunks: chunks.into(), ..self };
            if let Some(chunk) = self.chunks.pop_front() {
                return Ok(Some((chunk, self)));
            }
            if !more {
                if !still_running {
                    return Ok(None);
                }
                self.clock.sleep(FOLLOW_EVERY).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use futures_util::TryStreamExt as _;

    use super::*;

    const ID: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    struct Log {
        _directory: tempfile::TempDir,
        path: PathBuf,
    }

    impl Log {
        fn of(records: &str) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join(ID).join("ctr.log");
            std::fs::create_dir(path.parent().unwrap()).unwrap();
            std::fs::write(&path, lines(records)).unwrap();
            Self { _directory: directory, path }
        }

        fn open(&self, tail: Option<u32>, follow: bool) -> Option<LogFile> {
            let container = ID.to_owned().try_into().unwrap();
            LogFile::open(&self.path, &container, LogRequest { tail, follow, max_bytes: None })
        }

        async fn read(&self, tail: Option<u32>) -> [String; 2] {
            let log = self.open(tail, false).expect("the log is readable");
            texts(&stream(log, None, "read".into()).try_collect::<Vec<_>>().await.unwrap())
        }

        fn append(&self, records: &str) {
            let mut file = File::options().append(true).open(&self.path).unwrap();
            file.write_all(lines(records).as_bytes()).unwrap();
        }

        /// Replaces the file as conmon does at its size limit.
        fn replace(&self, records: &str) {
            let next = self.path.with_extension("tmp");
            std::fs::write(&next, lines(records)).unwrap();
            std::fs::rename(next, &self.path).unwrap();
        }
    }

    /// `oF text` is a record of standard output that ends its line, `eP text` one of standard error that does not.
    fn lines(records: &str) -> String {
        let record = |record: &str| {
            let (kind, text) = record.split_once(' ').expect("a record has a kind and a text");
            let stream = if kind.starts_with('o') { "stdout" } else { "stderr" };
            format!("2026-11-27T23:21:54.765439768+00:00 {stream} {} {text}\n", &kind[1..])
        };
        records.split_terminator('|').map(record).collect()
    }

    fn texts(chunks: &[LogChunk]) -> [String; 2] {
        let mut texts = [String::new(), String::new()];
        for chunk in chunks {
            texts[usize::from(chunk.stderr)] += std::str::from_utf8(&chunk.bytes).unwrap();
        }
        texts
    }

    #[tokio::test]
    async fn partial_log_records_are_joined_per_stream() {
        let log = Log::of("oF one|oP tw|eF bad thing|oF o|eP \rdots");
        assert_eq!(log.read(None).await, ["one\ntwo\n", "bad thing\n\rdots"]);
    }

    #[tokio::test]
    async fn log_tail_returns_whole_lines_and_counts_an_unfinished_line() {
        let log = Log::of("oF one|oP tw|oF o|eF three|oP fo|oP ur");
        for (lines, out, err) in [
            (0, "", ""),
            (1, "four", ""),
            (2, "four", "three\n"),
            (3, "two\nfour", "three\n"),
            (4, "one\ntwo\nfour", "three\n"),
            (99, "one\ntwo\nfour", "three\n"),
        ] {
            assert_eq!(log.read(Some(lines)).await, [out, err], "{lines} lines");
        }
    }

    #[tokio::test]
    async fn log_tail_omits_the_remainder_of_an_older_line() {
        let log = Log::of("eP be|oF new|eF gin");
        assert_eq!(log.read(Some(1)).await, ["new\n", ""]);
    }

    #[tokio::test]
    async fn log_tail_of_one_endless_line_is_bounded_in_bytes() {
        let piece = format!("oP {}|", "x".repeat(8192));
        let log = Log::of(&piece.repeat(1000));
        let container = ID.to_owned().try_into().unwrap();
        let request = LogRequest { tail: Some(5), follow: false, max_bytes: Some(64 << 10) };
        let log = LogFile::open(&log.path, &container, request).unwrap();
        let chunks = stream(log, None, "read".into()).try_collect::<Vec<_>>().await.unwrap();
        let [out, _] = texts(&chunks);
        assert!((40_000..64 << 10).contains(&out.len()), "{} bytes", out.len());
        assert!(out.bytes().all(|byte| byte == b'x'), "a record header was read as content");
    }

    #[test]
    fn log_reader_ignores_lines_appended_after_open() {
        let log = Log::of("oF one");
        let mut reading = log.open(None, false).unwrap();
        log.append("oF two");
        assert_eq!(texts(&reading.advance().unwrap().0), ["one\n", ""]);
        log.append("oF three");
        assert_eq!(reading.advance().unwrap(), (Vec::new(), false));
    }

    #[test]
    fn log_follower_continues_in_the_replacement_file() {
        let log = Log::of("oF one");
        let mut reading = log.open(Some(0), true).unwrap();
        assert_eq!(reading.advance().unwrap(), (Vec::new(), false));
        log.append("oF two");
        assert_eq!(texts(&reading.advance().unwrap().0), ["two\n", ""]);
        log.append("oF three");
        log.replace("oF four");
        let mut read = Vec::new();
        loop {
            let (chunks, more) = reading.advance().unwrap();
            read.extend(chunks);
            if !more {
                break;
            }
        }
        assert_eq!(texts(&read), ["three\nfour\n", ""]);
    }

    #[tokio::test]
    async fn invalid_log_records_are_skipped() {
        let log = Log::of("oF one");
        let mut bytes = vec![b'x'; 3 * RECORD_MAX_BYTES];
        bytes.extend(b"\nTIME stdin F no\nTIME stdout Q no\nTIME stdout F two\nTIME stdout F cut");
        File::options().append(true).open(&log.path).unwrap().write_all(&bytes).unwrap();
        assert_eq!(log.read(None).await, ["one\ntwo\n", ""]);
        assert_eq!(log.read(Some(1)).await, ["two\n", ""]);
    }

    #[test]
    fn log_file_is_opened_only_for_its_own_container() {
        let log = Log::of("oF one");
        let request = LogRequest { tail: None, follow: false, max_bytes: None };
        let other = "b".repeat(64).try_into().unwrap();
        assert!(LogFile::open(&log.path, &other, request).is_none());
        let same = ID.to_owned().try_into().unwrap();
        assert!(LogFile::open(&log.path, &same, request).is_some());
        assert!(
            LogFile::open(log.path.parent().unwrap(), &same, request).is_none(),
            "a directory was read as a log"
        );
    }
}
