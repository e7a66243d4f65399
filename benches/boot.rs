//! Time until everything runs again after a reboot, compared with the lower bound: `podman start` of the same
//! containers.
//!
//! It uses the real binary on the real Podman. A reboot is simulated as far as possible on a running machine: the
//! daemon is stopped cleanly, as at shutdown, and then every container is killed. Unlike in a power failure, Podman
//! notices each exit. Podman's own state below `/run`, which a real boot clears, is shared with everything else on the
//! machine and stays.
//!
//! `cargo bench --bench boot` prints the figures; `-- --workspaces N` uses another number than 40, and
//! `--concurrent-starts N` another `engine.concurrent_starts` than the default.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a benchmark prints its results, panics on unexpected ones, and measures real time"
)]

#[path = "../tests/support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the tests, which use the rest")]
mod support;

use std::time::{Duration, Instant};

use serde_json::Value;
use support::{
    daemon::{Site, until},
    podman::{podman, podman_output},
    ports::{CAMPAIGNS, Ports},
};

/// Maximum time that ostler may take, as a multiple of the time that `podman start` alone takes.
const GOAL: f64 = 1.3;
/// Interval of the checks whether everything is online.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);
/// Time limit until everything is online.
const PATIENCE: Duration = Duration::from_mins(5);

fn configuration(ports: &Ports, concurrent_starts: usize) -> String {
    format!(
        "ports = \"{}\"\n[engine]\nconcurrent_starts = {concurrent_starts}\n\
         [runtimes.plain]\nstop_grace = \"1s\"\n",
        ports.range()
    )
}

fn listed(site: &Site) -> Vec<Value> {
    site.json(["ls"]).as_array().unwrap().clone()
}

/// Kills every container of the workspaces.
fn kill(containers: &[String]) {
    let done = podman().args(["kill", "--signal", "KILL"]).args(containers).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let all_ended = || {
        let states = inspected(containers, "{{.State.Status}}");
        states.iter().all(|state| state == "exited").then_some(())
    };
    until("every container has ended", all_ended);
}

fn inspected(containers: &[String], what: &str) -> Vec<String> {
    let arguments = ["container", "inspect", "--format", what].into_iter();
    let output = podman_output(arguments.chain(containers.iter().map(String::as_str)));
    output.lines().map(str::to_owned).collect()
}

/// Runs `podman start` for all containers, in one command or one after the other; returns the time that it took.
fn bare_starts(containers: &[String], at_once: bool) -> Duration {
    let began = Instant::now();
    let each = if at_once { containers.len() } else { 1 };
    for some in containers.chunks(each) {
        let done = podman().arg("start").args(some).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    began.elapsed()
}

fn main() {
    let workspaces = option("--workspaces", 40);
    let ports = Ports::take(&CAMPAIGNS, u16::try_from(2 * workspaces).unwrap());
    let mut site = Site::new(&configuration(&ports, option("--concurrent-starts", 0)));
    site.serve();
    // A tree: every fourth workspace is the parent of the next three.
    let names: Vec<_> = (0..workspaces).map(|number| format!("w{number}")).collect();
    let parent = |number: usize| (!number.is_multiple_of(4)).then(|| names[number / 4 * 4].as_str());
    let below: Vec<_> =
        names.iter().enumerate().map(|(number, name)| (name.as_str(), parent(number))).collect();
    for some in below.chunks(8) {
        site.create_all(some);
    }
    let rows = listed(&site);
    let containers: Vec<_> =
        rows.iter().map(|row| row["container_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(containers.len(), workspaces);
    site.stop();
    kill(&containers);
    let in_one = bare_starts(&containers, true);
    kill(&containers);
    let one_by_one = bare_starts(&containers, false);
    // The reboot.
    kill(&containers);
    let before = wall_clock();
    let began = Instant::now();
    site.begin_to_serve();
    let is_up = |row: &Value| row["status"] == "online" && row["incarnation"] == 2;
    let online = loop {
        // Each check starts a process, which uses processor time that the measured starts need. So checks are rare.
        std::thread::sleep(CHECK_INTERVAL);
        let rows: Option<Vec<Value>> = serde_json::from_str(&site.ostler(["ls", "--json"]).stdout).ok();
        if rows.as_ref().is_some_and(|rows| rows.len() == workspaces && rows.iter().all(is_up)) {
            break began.elapsed();
        }
        assert!(began.elapsed() < PATIENCE, "not everything is online: {rows:#?}\n{}", site.log());
    };
    let started: Vec<i64> = inspected(&containers, "{{.State.StartedAt.UnixMilli}}")
        .iter()
        .map(|at| at.parse::<i64>().unwrap() - before)
        .collect();
    let seconds = |at: Option<&i64>| Duration::from_millis(u64::try_from(*at.unwrap()).unwrap());
    let (first, running) = (seconds(started.iter().min()), seconds(started.iter().max()));
    let started_at = |number: usize| {
        let at = rows.iter().position(|row| row["name"] == names[number].as_str());
        started[at.unwrap()]
    };
    let early = (0..workspaces).filter(|number| started_at(*number) < started_at(number / 4 * 4)).count();
    println!("| {workspaces} workspaces after a reboot | seconds |");
    println!("|---|---|");
    println!("| `podman start` of all, one command | {:.1} |", in_one.as_secs_f64());
    println!("| `podman start` of each, one after the other | {:.1} |", one_by_one.as_secs_f64());
    println!("| ostler, from its start until the first container runs | {:.1} |", first.as_secs_f64());
    println!("| ostler, from its start until the last container runs | {:.1} |", running.as_secs_f64());
    println!("| ostler, until all are online (they have run for 2 s) | {:.1} |", online.as_secs_f64());
    let ratio = running.as_secs_f64() / in_one.as_secs_f64();
    let reached = if ratio <= GOAL { "reached" } else { "MISSED" };
    println!("children that started before their parent: {early}");
    println!("goal: at most {GOAL} times the bare starts: {ratio:.2}: {reached}");
}

/// The number after this option on the command line.
fn option(name: &str, otherwise: usize) -> usize {
    let mut arguments = std::env::args().skip_while(|argument| argument != name).skip(1);
    arguments.next().map_or(otherwise, |number| number.parse().unwrap())
}

/// Wall clock, in milliseconds since the epoch.
fn wall_clock() -> i64 {
    i64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap()
}
