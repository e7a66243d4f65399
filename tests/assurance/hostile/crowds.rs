//! Many connections: slow ones, and idle ones.

use std::{net::SocketAddr, time::Duration};

use tokio::{task::JoinSet, time::Instant};

use super::{Notes, answer::Line, loopback, served::Caller};

pub(super) const DRIPPED: &str = "connections that dripped a byte at a time";
pub(super) const CUT: &str = "of them cut by the server";
pub(super) const OPENED: &str = "connections of the flood";

/// Number of slow connections, half of them in the head, half in the body.
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

/// Keeps that many slow connections until then; one that is cut is opened again.
pub(super) async fn drip(to: SocketAddr, noisy: Vec<Caller>, speed: u32, notes: Notes, until: Instant) {
    let mut all = JoinSet::new();
    for number in 0..DRIPS {
        let (who, notes) = (noisy[number % noisy.len()].clone(), notes.clone());
        all.spawn(async move {
            while Instant::now() < until {
                drip_once(number, to, &who, DRIP_EVERY / speed, &notes, until).await;
            }
        });
    }
    while let Some(ended) = all.join_next().await {
        ended.expect("it only drips");
    }
}

async fn drip_once(
    number: usize,
    to: SocketAddr,
    who: &Caller,
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
            who.token
        );
        let _cut = line.write(head.as_bytes()).await;
    }
    notes.count(DRIPPED);
    let text =
        if body { " ".repeat(5000) } else { format!("GET /health HTTP/1.1\r\nX: {}", "x".repeat(5000)) };
    let mut turn = tokio::time::interval(every);
    for byte in text.bytes() {
        tokio::select! {
            said = line.ended() => {
                // Closed without a response, or with one that says it was too slow.
                let said = String::from_utf8_lossy(&said).into_owned();
                let cut = said.is_empty() || said.starts_with("HTTP/1.1 408 ") || said.starts_with("HTTP/1.1 429 ");
                if cut { notes.count(CUT) } else { notes.broke(format!("a slow connection was told {said:?}")) }
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
            // Some are closed at once; the others stay as long as the wave.
            match tokio::time::timeout_at(stays, line.ended()).await {
                Ok(_said) => left += 1,
                Err(_stays) => notes.count("of them held until the wave ended"),
            }
        }
        for _ in 0..left {
            notes.count("of them ended by the server");
        }
        notes.count("waves of the flood");
    }
}

async fn open(number: usize, to: SocketAddr, notes: &Notes) -> Option<Line> {
    // One of the agents' own addresses is among them.
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
        // Closed again at once, with a reset.
        3 if number.is_multiple_of(3) => return None,
        _ => {}
    }
    Some(line)
}
