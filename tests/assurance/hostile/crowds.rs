//! Many connections: slow ones, and idle ones.

use std::{net::SocketAddr, time::Duration};

use tokio::{task::JoinSet, time::Instant};

use super::{Notes, answer::Line, loopback, served::Caller};

pub(super) const DRIPPED: &str = "slow connections, which send one byte at a time";
pub(super) const CUT: &str = "slow connections closed by the server";
pub(super) const OPENED: &str = "connections of the flood";

/// Number of slow connections. Half of them send a slow head, half a slow body.
const DRIPS: usize = 400;
/// Interval between two bytes, on the clock of the attacked process.
const DRIP_EVERY: Duration = Duration::from_secs(3);
/// Connections opened in a wave; more than the server's limit.
const WAVE: usize = 7000;
/// Source addresses: each has a lower limit than the total, so several are needed to reach it.
const ADDRESSES: usize = 12;
/// Duration of a wave.
const STAY: Duration = Duration::from_secs(8);
/// Connections opened in parallel.
const AT_ONCE: usize = 250;

/// Keeps the given number of slow connections open until the given time; a connection that is closed is opened again.
pub(super) async fn drip(to: SocketAddr, noisy: Vec<Caller>, speed: u32, notes: Notes, until: Instant) {
    let mut all = JoinSet::new();
    for number in 0..DRIPS {
        let (caller, notes) = (noisy[number % noisy.len()].clone(), notes.clone());
        all.spawn(async move {
            while Instant::now() < until {
                drip_once(number, to, &caller, DRIP_EVERY / speed, &notes, until).await;
            }
        });
    }
    while let Some(ended) = all.join_next().await {
        ended.expect("the task does not panic");
    }
}

async fn drip_once(
    number: usize,
    to: SocketAddr,
    caller: &Caller,
    every: Duration,
    notes: &Notes,
    until: Instant,
) {
    let Ok(mut line) = Line::open(loopback(4, number / 100), to).await else {
        notes.count("slow connections that were not accepted");
        return tokio::time::sleep(every).await;
    };
    let body = number.is_multiple_of(2);
    if body {
        let path = ["/registry/heartbeat", "/registry/register"][number / 2 % 2];
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: slow\r\nAuthorization: Bearer {}\r\nContent-Length: 5000\r\n\r\n",
            caller.token
        );
        let _cut = line.write(head.as_bytes()).await;
    }
    notes.count(DRIPPED);
    let text =
        if body { " ".repeat(5000) } else { format!("GET /health HTTP/1.1\r\nX: {}", "x".repeat(5000)) };
    let mut turn = tokio::time::interval(every);
    for byte in text.bytes() {
        tokio::select! {
            received = line.ended() => {
                // The server closed the connection without a response, or with 408 or 429.
                let received = String::from_utf8_lossy(&received).into_owned();
                let refusal = ["HTTP/1.1 408 ", "HTTP/1.1 429 "].iter().any(|head| received.starts_with(head));
                if received.is_empty() || refusal {
                    notes.count(CUT);
                } else {
                    notes.broke(format!("a slow connection received {received:?}"));
                }
                return;
            }
            _turn = turn.tick() => {}
        }
        if Instant::now() >= until {
            return;
        }
        if line.write(&[byte]).await.is_err() {
            notes.count(CUT);
            return;
        }
    }
}

/// Opens waves of idle connections.
pub(super) async fn flood(to: SocketAddr, notes: Notes, until: Instant) {
    while Instant::now() < until {
        let mut held = Vec::new();
        for first in (0..WAVE).step_by(AT_ONCE) {
            let opened = (first..first + AT_ONCE).map(|number| open(number, to, &notes));
            held.extend(futures_util::future::join_all(opened).await.into_iter().flatten());
        }
        let stays = Instant::now() + STAY.min(until.saturating_duration_since(Instant::now()));
        let mut left = 0_u64;
        for mut line in held {
            // Some connections are closed at once; the others stay open until the wave ends.
            match tokio::time::timeout_at(stays, line.ended()).await {
                Ok(_received) => left += 1,
                Err(_stays) => {
                    notes.count("connections of the flood that lasted until the end of their wave");
                }
            }
        }
        for _ in 0..left {
            notes.count("connections of the flood closed by the server");
        }
        notes.count("waves of the flood");
    }
}

async fn open(number: usize, to: SocketAddr, notes: &Notes) -> Option<Line> {
    // One of these addresses is also used by agents.
    let from =
        if number.is_multiple_of(ADDRESSES) { loopback(1, 0) } else { loopback(2, number % ADDRESSES) };
    let Ok(Ok(mut line)) = tokio::time::timeout(STAY, Line::open(from, to)).await else {
        notes.count("connections of the flood that were not accepted");
        return None;
    };
    notes.count(OPENED);
    match number % 5 {
        0 => line.finish().await,
        1 => drop(line.write(b"GET /health HTT").await),
        2 => drop(line.write(b"POST /registry/heartbeat HTTP/1.1\r\nContent-Length: 9\r\n\r\n{").await),
        // The client closes the connection at once, with a reset.
        3 if number.is_multiple_of(3) => return None,
        _ => {}
    }
    Some(line)
}
