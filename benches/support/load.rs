//! A load generator with little overhead: one thread, requests built in advance, answers read only to find their end.
//! Each connection sends its next request when the last one was answered.

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

/// Requests to send in turn, each from another agent.
pub(crate) type Requests = Arc<Vec<Vec<u8>>>;

/// Results of a period of load.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) took: Duration,
    /// Latency of each answer in µs, in ascending order.
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

    /// The latency, in ms, that `per_mille` out of every thousand answers do not exceed.
    pub(crate) fn millis(&self, per_mille: usize) -> f64 {
        f64::from(self.latencies[(self.latencies.len() - 1) * per_mille / 1000]) / 1000.0
    }
}

/// Length of a period of load.
#[derive(Clone, Copy)]
pub(crate) enum Until {
    /// A number of requests.
    Sent(usize),
    /// A duration.
    Past(Duration),
}

struct Shared {
    requests: Requests,
    next: AtomicUsize,
    last: usize,
    end: Option<Instant>,
}

/// Index of the next request; kept from one period of load to the next, so that every agent has its turn.
#[derive(Default)]
pub(crate) struct Turn(usize);

/// Sends requests over `connections` connections, which are opened before the measurement begins.
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

/// Whether an answer has been read completely.
fn is_whole(answer: &[u8]) -> bool {
    const LENGTH: &[u8] = b"content-length: ";
    let Some(end) = find(answer, b"\r\n\r\n") else { return false };
    let (head, body) = (&answer[..end], &answer[end + 4..]);
    let Some(at) = find(head, LENGTH) else { return body.ends_with(b"0\r\n\r\n") };
    let digits = head[at + LENGTH.len()..].iter().take_while(|byte| byte.is_ascii_digit());
    let length = digits.fold(0, |number, digit| number * 10 + usize::from(digit - b'0'));
    body.len() >= length
}

/// Numbers below `count` in an order unrelated to the placement of rows in pages.
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
