//! Cost of `network.isolate` with a hundred workspaces: each then has its own network, and kernel rules drop packets
//! between those.
//!
//! It uses the real binary on the real Podman, once with a shared network and once with one network each, in one run.
//! It needs root and nftables. `cargo bench --bench isolation` prints the figures; `-- --workspaces N` uses another
//! number than 100.

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

use std::{
    fs,
    time::{Duration, Instant},
};

use support::{
    daemon::Site,
    ports::{CAMPAIGNS, Ports},
};

/// Restarts measured once all workspaces run.
const RESTARTS: usize = 15;
/// How long the idle daemon is measured.
const WATCHED: Duration = Duration::from_secs(30);

/// Cost of one network setup.
struct Cost {
    /// Creation time per workspace, in seconds, in the first batch of eight and in the last batch but one.
    first: f64,
    last: f64,
    create_all: f64,
    /// Median time until a restarted workspace is online again, in seconds.
    restart: f64,
    /// Memory of the daemon, in MiB.
    memory: f64,
    /// Processor time of the idle daemon, as a fraction of one core.
    idle: f64,
}

fn measure(workspaces: usize, isolate: bool) -> Cost {
    let ports = Ports::take(&CAMPAIGNS, u16::try_from(2 * workspaces).unwrap());
    let mut site = Site::new(&format!(
        "ports = \"{}\"\n[network]\nisolate = {isolate}\n[runtimes.plain]\nstop_grace = \"1s\"\n",
        ports.range()
    ));
    site.serve();
    let names: Vec<_> = (0..workspaces).map(|number| format!("w{number}")).collect();
    let mut batches = Vec::new();
    let all = Instant::now();
    for some in names.chunks(8) {
        let began = Instant::now();
        site.create_all(&some.iter().map(|name| (name.as_str(), None)).collect::<Vec<_>>());
        batches.push(began.elapsed().as_secs_f64() / count(some.len()));
    }
    let create_all = all.elapsed().as_secs_f64();
    let mut restarts: Vec<_> = (0..RESTARTS)
        .map(|number| {
            let began = Instant::now();
            site.ostler(["restart", &names[number * workspaces / RESTARTS]]).well();
            began.elapsed().as_secs_f64()
        })
        .collect();
    restarts.sort_by(f64::total_cmp);
    let process = site.pid();
    let before = processor(process);
    std::thread::sleep(WATCHED);
    Cost {
        first: batches[0],
        last: batches[batches.len() - 2],
        create_all,
        restart: restarts[RESTARTS / 2],
        memory: resident_kib(process) / 1024.0,
        idle: (processor(process) - before) / WATCHED.as_secs_f64(),
    }
}

fn count(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap())
}

/// Processor time of a process, in seconds, including threads that have ended.
fn processor(process: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // The fields are counted after the name, which may contain spaces and brackets. The state is the 3rd field; the
    // times are the 14th and the 15th, in 1/100 s.
    let fields = text.rsplit(')').next().unwrap().split_whitespace();
    fields.skip(11).take(2).map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>() / 100.0
}

fn resident_kib(process: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Returns one of the figures in a [`Cost`].
type Figure = fn(&Cost) -> f64;

fn main() {
    let mut arguments = std::env::args().skip_while(|argument| argument != "--workspaces").skip(1);
    let workspaces = arguments.next().map_or(100, |number| number.parse().unwrap());
    let shared = measure(workspaces, false);
    let isolated = measure(workspaces, true);
    println!("| {workspaces} workspaces | one network | one for each | ratio |");
    println!("|---|---|---|---|");
    let figures: [(&str, Figure, usize); 6] = [
        ("creation of all, seconds", |cost| cost.create_all, 1),
        ("creation of one of the first, seconds", |cost| cost.first, 2),
        ("creation of one of the last, seconds", |cost| cost.last, 2),
        ("restart of one, seconds", |cost| cost.restart, 2),
        ("memory of the daemon, MiB", |cost| cost.memory, 1),
        ("processor time while idle, % of a core", |cost| cost.idle * 100.0, 2),
    ];
    for (what, figure, digits) in figures {
        let (shared, isolated) = (figure(&shared), figure(&isolated));
        let ratio = isolated / shared;
        println!("| {what} | {shared:.digits$} | {isolated:.digits$} | {ratio:.2} |");
    }
}
