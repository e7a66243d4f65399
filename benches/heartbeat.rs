//! Throughput of heartbeats and messages, compared with a bare route that receives the same bytes.
//!
//! The servers that are compared are called contestants. Every contestant is a separate process and is called over
//! loopback by one load generator, which shares the machine's processors with it. Connections are kept alive, and each
//! request comes from another of ten thousand workspaces. The bare route is axum parsing the same JSON; ostler's own
//! work is the difference between the two. A heartbeat is answered when it is committed with `synchronous=FULL`.
//!
//! The contestants take turns in rounds, so that changes in machine load affect them alike; ratios are computed within
//! a round before taking the median. A round in which other processes used the processors is repeated, whatever its
//! result.
//!
//! `cargo bench --bench heartbeat` prints the tables; `-- --quick` runs one short round, `--heartbeats` and
//! `--messages` only one of the tables.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark prints its results, and panics on unexpected ones"
)]
#![allow(clippy::disallowed_methods, reason = "a benchmark measures real time, and kills its contestants")]

mod support;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ostler::store::FILE_NAME;
use support::{
    Contestant, Used,
    app::{self, token, workspace},
    busy, commits, contestant, directory,
    load::{self, Outcome, Requests, Turn, Until, shuffled},
    spread, verdict,
};

const WORKSPACES: usize = 10_000;
/// Number of undisturbed rounds to complete.
const ROUNDS: usize = 7;
/// Maximum number of rounds, including disturbed ones, that are run to get [`ROUNDS`] undisturbed ones.
const ROUNDS_MAX: usize = 14;
/// Largest share of the processors that other processes may use in an undisturbed round.
const FOREIGN_MAX: f64 = 0.1;

/// Measurements of a contestant in one period of load.
struct Epoch {
    outcome: Outcome,
    used: Used,
    commits: f64,
}

impl Epoch {
    /// Processor time per request, in µs.
    fn processor(&self) -> f64 {
        self.used.processor.as_secs_f64() * 1e6 / self.outcome.count()
    }

    /// Bytes written per request.
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^53")]
    fn written(&self) -> f64 {
        self.used.written as f64 / self.outcome.count()
    }
}

/// One line of a table.
struct Line {
    title: String,
    connections: usize,
    server: Arc<Contestant>,
    requests: Requests,
    database: Option<PathBuf>,
    turn: Turn,
    epochs: Vec<Epoch>,
}

impl Line {
    fn new(title: &str, connections: usize, server: &Arc<Contestant>, requests: &Requests) -> Self {
        let (server, requests) = (Arc::clone(server), Arc::clone(requests));
        let title = title.to_owned();
        Self {
            title,
            connections,
            server,
            requests,
            database: None,
            turn: Turn::default(),
            epochs: Vec::new(),
        }
    }

    fn writing(mut self, database: &Path) -> Self {
        self.database = Some(database.to_owned());
        self
    }

    fn run(&mut self, until: Until) -> Epoch {
        let counted = |database: &Option<PathBuf>| database.as_deref().map_or(0, commits);
        let (server, database) = (&self.server, &self.database);
        let mut before = (Used::default(), 0);
        let begin = || before = (server.used(), counted(database));
        let outcome =
            load::run(server.address, self.connections, &self.requests, &mut self.turn, until, begin);
        let commits = f64::from(counted(database).wrapping_sub(before.1));
        Epoch { outcome, used: server.used().since(before.0), commits }
    }

    fn median(&self, of: impl Fn(&Epoch) -> f64) -> f64 {
        spread(self.epochs.iter().map(of)).0
    }

    fn print(&self) {
        let rate = self.median(|epoch| epoch.outcome.per_second());
        print!(
            "| {} | {} | {:.1} k/s | {:.2} ms | {:.2} ms | {:.1} µs |",
            self.title,
            self.connections,
            rate / 1000.0,
            self.median(|epoch| epoch.outcome.millis(500)),
            self.median(|epoch| epoch.outcome.millis(990)),
            self.median(Epoch::processor)
        );
        match self.database {
            Some(_) => println!(
                " {:.0} | {:.1} |",
                self.median(Epoch::written),
                self.median(|epoch| epoch.outcome.count() / epoch.commits)
            ),
            None => println!(" – | – |"),
        }
    }
}

/// Runs rounds of all lines until enough of them were undisturbed.
fn race(lines: &mut [Line], rounds: usize, epoch: Duration) {
    let mut kept: Vec<(f64, Vec<Epoch>)> = Vec::new();
    let most = if rounds == 1 { 1 } else { ROUNDS_MAX };
    for round in 0..most {
        let (before, busy_before) = (ours(lines), busy());
        let begun = std::time::Instant::now();
        let mut epochs: Vec<Option<Epoch>> = lines.iter().map(|_| None).collect();
        for location in 0..lines.len() {
            // Each round begins with another contestant, so that no contestant always runs first.
            let number = (location + round) % lines.len();
            epochs[number] = Some(lines[number].run(Until::Past(epoch)));
        }
        let (ours, all) = (ours(lines).saturating_sub(before), busy().saturating_sub(busy_before));
        let processors =
            f64::from(u32::try_from(std::thread::available_parallelism().unwrap().get()).unwrap());
        let foreign = all.saturating_sub(ours).as_secs_f64() / (begun.elapsed().as_secs_f64() * processors);
        kept.push((foreign, epochs.into_iter().map(Option::unwrap).collect()));
        if kept.iter().filter(|(foreign, _)| *foreign <= FOREIGN_MAX).count() >= rounds {
            break;
        }
    }
    let begun = kept.len();
    kept.sort_by(|(one, _), (other, _)| one.total_cmp(other));
    kept.truncate(rounds);
    println!(
        "\n{rounds} of {begun} rounds count; other processes used at most {:.0} % of the processors in them.\n",
        kept.last().unwrap().0 * 100.0
    );
    for (_, epochs) in kept {
        for (line, epoch) in lines.iter_mut().zip(epochs) {
            line.epochs.push(epoch);
        }
    }
    println!("| route | connections | rate | p50 | p99 | processor | bytes written | per commit |");
    println!("|---|---|---|---|---|---|---|---|");
    for line in lines.iter() {
        line.print();
    }
    println!();
}

/// Processor time of all contestants and the load generator.
fn ours(lines: &[Line]) -> Duration {
    let mut servers: Vec<_> = lines.iter().map(|line| line.server.id()).collect();
    servers.sort_unstable();
    servers.dedup();
    let own = Used::of(std::process::id()).processor;
    servers.into_iter().map(|id| Used::of(id).processor).sum::<Duration>() + own
}

/// Median, lowest and highest of a ratio computed in each round.
fn ratio(one: &Line, other: &Line, of: impl Fn(&Epoch) -> f64) -> (f64, f64, f64) {
    spread(one.epochs.iter().zip(&other.epochs).map(|(one, other)| of(one) / of(other)))
}

fn request(path: &str, token: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nHost: 127.0.0.1:7700\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/json\r\nAccept: */*\r\nUser-Agent: agent\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// A complete heartbeat of each workspace, as runtimes send it every 30 s.
fn heartbeats() -> Requests {
    let heartbeat = |number: usize| {
        let body = format!(
            r#"{{"workspace_id":"{}","error_rate":0.0,"sample_error":"","active_tasks":1,"uptime_seconds":{},"current_task":"sorting the post","monthly_spend":{},"runtime_state":"","runtime_metadata":{{"capabilities":{{"streaming":true}},"idle_timeout_seconds":300}}}}"#,
            workspace(number),
            3600 + number,
            number % 1000
        );
        request("/registry/heartbeat", token(number).expose(), &body)
    };
    Arc::new(shuffled(WORKSPACES).into_iter().map(heartbeat).collect())
}

/// A small message from each workspace.
fn messages(path: &str) -> Requests {
    let message = |number: usize| {
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":"{number}","method":"message/send","params":{{"message":{{"messageId":"m-{number}","role":"user","parts":[{{"kind":"text","text":"What is new?"}}]}}}}}}"#
        );
        request(path, token(number).expose(), &body)
    };
    Arc::new(shuffled(WORKSPACES).into_iter().map(message).collect())
}

fn race_heartbeats(
    bare: &Arc<Contestant>,
    ostler: &Arc<Contestant>,
    database: &Path,
    rounds: usize,
    epoch: Duration,
) {
    let heartbeats = heartbeats();
    let mut lines = Vec::new();
    for connections in [64, 256] {
        lines.push(Line::new("bare axum", connections, bare, &heartbeats));
        lines.push(Line::new("**ostler** heartbeat", connections, ostler, &heartbeats).writing(database));
    }
    for line in &mut lines {
        line.run(Until::Sent(WORKSPACES));
    }
    println!(
        "## Heartbeats\n\n{WORKSPACES} workspaces, a different one each time, `synchronous=FULL`, answered after the commit."
    );
    race(&mut lines, rounds, epoch);
    for (bare, ostler) in [(0, 1), (2, 3)] {
        let (bare, ostler) = (&lines[bare], &lines[ostler]);
        let (middle, low, high) = ratio(ostler, bare, |epoch| epoch.outcome.per_second());
        verdict(
            &format!(
                "at {} connections at least 50 % of the bare rate: {:.0} % ({:.0}..{:.0})",
                ostler.connections,
                middle * 100.0,
                low * 100.0,
                high * 100.0
            ),
            middle >= 0.5,
        );
    }
    let (bare, ostler) = (&lines[0], &lines[1]);
    let (middle, low, high) = ratio(ostler, bare, Epoch::processor);
    verdict(
        &format!(
            "processor time per heartbeat at most 2.6 times the bare route's: {middle:.2} ({low:.2}..{high:.2})"
        ),
        middle <= 2.6,
    );
    let p99 = ostler.median(|epoch| epoch.outcome.millis(990));
    verdict(&format!("p99 at 64 connections under 10 ms: {p99:.2} ms"), p99 < 10.0);
    let written = ostler.median(Epoch::written);
    verdict(&format!("at most 5000 bytes written per heartbeat: {written:.0}"), written <= 5000.0);
}

fn race_messages(
    agent: &Arc<Contestant>,
    proxy: &Arc<Contestant>,
    ostler: &Arc<Contestant>,
    rounds: usize,
    epoch: Duration,
) {
    let path = format!("/workspaces/{}/a2a", workspace(0));
    let (direct, passed) = (messages("/"), messages(&path));
    let mut lines = Vec::new();
    for connections in [1, 64] {
        lines.push(Line::new("the agent itself", connections, agent, &direct));
        lines.push(Line::new("bare axum proxy", connections, proxy, &passed));
        lines.push(Line::new("**ostler** proxy", connections, ostler, &passed));
    }
    for line in &mut lines {
        line.run(Until::Sent(1000));
    }
    println!(
        "\n## Messages\n\nSmall ones, from {WORKSPACES} workspaces to one agent, an axum server that echoes them."
    );
    race(&mut lines, rounds, epoch);
    let rate = |epoch: &Epoch| epoch.outcome.per_second();
    let (middle, low, high) = ratio(&lines[5], &lines[3], rate);
    verdict(
        &format!(
            "at least 60 % of the rate of the agent itself: {:.0} % ({:.0}..{:.0})",
            middle * 100.0,
            low * 100.0,
            high * 100.0
        ),
        middle >= 0.6,
    );
    let (middle, low, high) = ratio(&lines[5], &lines[4], rate);
    println!(
        "      compared with the bare proxy: {:.0} % of its rate ({:.0}..{:.0})",
        middle * 100.0,
        low * 100.0,
        high * 100.0
    );
    let added = lines[2].epochs.iter().zip(&lines[0].epochs);
    let added = added.map(|(ostler, agent)| ostler.outcome.millis(500) - agent.outcome.millis(500));
    let (middle, low, high) = spread(added);
    verdict(
        &format!("under 0.3 ms added at p50, one at a time: {middle:.3} ms ({low:.3}..{high:.3})"),
        middle < 0.3,
    );
}

fn main() {
    if let Some((name, arguments)) = contestant() {
        match (name.as_str(), &arguments[..]) {
            ("bare", []) => support::serve_bare(),
            ("proxy", [agent]) => support::serve_bare_proxy(agent.parse().unwrap()),
            ("ostler", [directory, agent]) => {
                app::serve(Path::new(directory), WORKSPACES, agent.parse().unwrap());
            }
            _ => panic!("no contestant {name} {arguments:?}"),
        }
        return;
    }
    let quick = std::env::args().any(|argument| argument == "--quick");
    let (rounds, epoch) = if quick { (1, Duration::from_secs(1)) } else { (ROUNDS, Duration::from_secs(3)) };
    let only = |what| std::env::args().any(|argument| argument == what);
    let directory = directory();
    let bare = Arc::new(Contestant::start("bare", &[]));
    let agent = Arc::new(Contestant::start("bare", &[]));
    let proxy = Arc::new(Contestant::start("proxy", &[&agent.address.to_string()]));
    let home = directory.path().to_str().unwrap();
    let ostler = Arc::new(Contestant::start("ostler", &[home, &agent.address.to_string()]));
    let database = directory.path().join(FILE_NAME);
    // One heartbeat of each workspace first, because ostler holds messages to an agent that has never sent one.
    load::run(ostler.address, 64, &heartbeats(), &mut Turn::default(), Until::Sent(WORKSPACES), || ());
    if !only("--messages") {
        race_heartbeats(&bare, &ostler, &database, rounds, epoch);
    }
    if !only("--heartbeats") {
        race_messages(&agent, &proxy, &ostler, rounds, epoch);
    }
}
