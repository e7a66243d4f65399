//! A load generator that costs little beside what it measures: one thread, requests written out before, answers read
//! no further than to their end. Each connection sends its next request when it has the answer to the last.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};

/// Requests to be sent in turn, each with an agent of its own.
pub(crate) type Requests = Arc<Vec<Vec<u8>>>;

/// What came of a spell of load.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) took: Duration,
    /// How long each answer took in µs, the shortest first.
    pub(crate) latencies: Vec<u32>,
}

impl Outcome {
    pub(crate) fn per_second(&self) -> f64 {
        self.count() / self.took.as_secs_f64()
    }

    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^53")]
    pub(crate) fn count(&self) -> f64 {
        self.latencies.len() as f64
    }

    /// The latency, in ms, that so many of a thousand answers do not exceed.
    pub(crate) fn millis(&self, per_mille: usize) -> f64 {
        f64::from(self.latencies[(self.latencies.len() - 1) * per_mille / 1000]) / 1000.0
    }
}

/// For how long.
#[derive(Clone, Copy)]
pub(crate) enum Until {
    /// So many requests.
    Sent(usize),
    /// So long.
    Past(Duration),
}

struct Shared {
    requests: Requests,
    next: AtomicUsize,
    last: usize,
    end: Option<Instant>,
}

/// Which of the requests comes next; it goes on from one spell of load to the next, so that every agent has its turn.
#[derive(Default)]
pub(crate) struct Turn(usize);

/// Sends requests over so many connections, which are open before the time begins.
pub(crate) fn run(
    to: SocketAddr,
    connections: usize,
    requests: &Requests,
    turn: &mut Turn,
    until: Until,
    at_begin: impl FnOnce(),
) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    runtime.block_on(async {
        let mut streams = Vec::new();
        for _ in 0..connections {
            let stream = TcpStream::connect(to).await.unwrap();
            stream.set_nodelay(true).unwrap();
            streams.push(stream);
        }
        at_begin();
        let begun = Instant::now();
        let (last, end) = match until {
            Until::Sent(count) => (turn.0 + count, None),
            Until::Past(time) => (usize::MAX, Some(begun + time)),
        };
        let requests = Arc::clone(requests);
        let shared = Arc::new(Shared { requests, next: AtomicUsize::new(turn.0), last, end });
        let mut conversations = JoinSet::new();
        for stream in streams {
            conversations.spawn(converse(stream, Arc::clone(&shared)));
        }
        let mut latencies: Vec<u32> = conversations.join_all().await.concat();
        let took = begun.elapsed();
        turn.0 = shared.next.load(Ordering::Relaxed);
        latencies.sort_unstable();
        Outcome { took, latencies }
    })
}

async fn converse(mut stream: TcpStream, shared: Arc<Shared>) -> Vec<u32> {
    let mut latencies = Vec::with_capacity(4096);
    let mut buffer = vec![0; 16 << 10];
    loop {
        let begun = Instant::now();
        if shared.end.is_some_and(|end| begun >= end) {
            return latencies;
        }
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        if number >= shared.last {
            return latencies;
        }
        let request = &shared.requests[number % shared.requests.len()];
        stream.write_all(request).await.unwrap();
        let mut filled = 0;
        loop {
            let read = stream.read(&mut buffer[filled..]).await.unwrap();
            filled += read;
            assert!(read > 0, "a connection was closed: {}", String::from_utf8_lossy(&buffer[..filled]));
            if is_whole(&buffer[..filled]) {
                break;
            }
        }
        assert!(
            buffer.starts_with(b"HTTP/1.1 200 "),
            "{} was answered with {}",
            String::from_utf8_lossy(request),
            String::from_utf8_lossy(&buffer[..filled])
        );
        latencies.push(u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX));
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

/// Whether an answer has been read to its end.
fn is_whole(answer: &[u8]) -> bool {
    const LENGTH: &[u8] = b"content-length: ";
    let Some(end) = find(answer, b"\r\n\r\n") else { return false };
    let (head, body) = (&answer[..end], &answer[end + 4..]);
    let Some(at) = find(head, LENGTH) else { return body.ends_with(b"0\r\n\r\n") };
    let digits = head[at + LENGTH.len()..].iter().take_while(|byte| byte.is_ascii_digit());
    let length = digits.fold(0, |number, digit| number * 10 + usize::from(digit - b'0'));
    body.len() >= length
}

/// Numbers below `count` in an order that has nothing to do with how rows lie in pages.
pub(crate) fn shuffled(count: usize) -> Vec<usize> {
    let mut numbers: Vec<_> = (0..count).collect();
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    for at in (1..count).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        numbers.swap(at, usize::try_from(state % (at as u64 + 1)).unwrap());
    }
    numbers
}
