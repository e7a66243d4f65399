//! Hostile HTTP: malformed requests, slow clients and floods, while a thousand agents send heartbeats.
//!
//! ostler runs in a separate process (this same binary, started again), so its memory, descriptors and panics are its
//! own. Its clock is faster than real time: an agent sends a heartbeat every 30 s of it, and 3 min without heartbeats
//! are detected, as a control group shows. `--seed N` repeats the requests of that seed alone.

mod agents;
mod answer;
mod crowds;
mod noise;
mod served;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    Settings,
    report::Section,
    support::{
        podman::{self, Service},
        wire::Ask,
        worst_agent::{self, Daemon, Memory, Scale},
    },
};
use agents::{Agent, AgentResult};
use served::{Served, Used};

pub(crate) use served::serve_if_asked;

/// Speed of the attacked process's clock, as a multiple of real time.
const SPEED: u32 = 4;
/// Duration of the attack: several times the silence limit on its clock.
const SHORT: Duration = Duration::from_mins(1);
const LONG: Duration = Duration::from_mins(10);
/// The first seed of hostile requests. Each task that sends such requests has its own seed.
const SEED: u64 = 20_261_201;
/// Number of tasks that send hostile requests.
const NOISY: u64 = 4;
/// Limit of its memory at any time; generous.
const MEMORY_MAX_KIB: u64 = 256 << 10;
/// Limit of its connections (`ConnectionLimits::in_all`), and of its other descriptors.
const CONNECTIONS_MAX: usize = 4096;
const OTHER_DESCRIPTORS: usize = 64;
/// Limit for every wait; generous, because the machine may be busy with other work.
const PATIENCE: Duration = Duration::from_mins(2);

/// Results that several tasks collect.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Noted>>);

#[derive(Default)]
struct Noted {
    counts: BTreeMap<String, u64>,
    broken: Vec<String>,
    hidden: u64,
}

impl Notes {
    /// Increments a counter.
    fn count(&self, what: impl Into<String>) {
        *self.0.lock().unwrap().counts.entry(what.into()).or_default() += 1;
    }

    fn counted(&self, what: &str) -> u64 {
        self.0.lock().unwrap().counts.get(what).copied().unwrap_or_default()
    }

    /// Records a violation. Only the first ten are reported in full; the rest are counted, so that they do not fill
    /// the report.
    fn broke(&self, how: impl Into<String>) {
        let mut noted = self.0.lock().unwrap();
        if noted.broken.len() < 10 { noted.broken.push(how.into()) } else { noted.hidden += 1 }
    }

    fn into_section(self, section: &mut Section) {
        let noted = std::mem::take(&mut *self.0.lock().unwrap());
        for (what, count) in noted.counts {
            section.count(what, count);
        }
        for broken in noted.broken {
            section.broke(broken);
        }
        if noted.hidden > 0 {
            section.broke(format!("and {} more violations", noted.hidden));
        }
    }
}

/// Returns a loopback address of this group. The attackers' groups differ from those of most agents.
fn loopback(group: u8, number: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, group, 1 + u8::try_from(number % 250).expect("below 250"))
}

pub(crate) fn run(settings: &Settings, section: &mut Section) {
    served::raise_descriptors();
    let served = Served::start(SPEED);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(attack(settings, &served, section));
    if settings.seed.is_none() {
        runtime.block_on(worst(settings, section));
    }
    runtime.shutdown_background();
}

/// One hostile agent, against the program as shipped and real Podman, so that memory is measured as shipped.
async fn worst(settings: &Settings, section: &mut Section) {
    podman::image();
    let service = Service::start();
    let program = env!("CARGO_BIN_EXE_ostler");
    let daemon = Arc::new(Daemon::start_on(program, Some(service.socket())));
    let scale = Scale {
        others: 50,
        every: Duration::from_millis(500),
        in_flight: 600,
        large: 200,
        unread: 150,
        writes: 500,
        delegations: 60,
        redirects: 200,
        lasts: if settings.long { LONG } else { SHORT },
        settles: Duration::from_mins(1),
    };
    let figures = worst_agent::play(Arc::clone(&daemon), scale).await;
    for (what, figure) in worst_agent::lines(&figures) {
        section.count(what, figure);
    }
    // Cargo names a profile's directory after it. Without optimisation the program's own pages take 23 MiB, and such a
    // build is never shipped; there only anonymous memory is checked.
    let is_shipped =
        !std::path::Path::new(program).parent().is_some_and(|location| location.ends_with("debug"));
    let limited = |memory: Memory| if is_shipped { memory.resident_kib } else { memory.anonymous_kib };
    for broken in worst_agent::broken(&figures, limited) {
        section.broke(broken);
    }
}

async fn attack(settings: &Settings, served: &Served, section: &mut Section) {
    let (notes, stop) = (Notes::default(), CancellationToken::new());
    let agents: Vec<_> =
        served.agents.iter().enumerate().map(|(number, caller)| Agent::new(number, caller)).collect();
    for caller in &served.silent {
        // Each of these agents sends one heartbeat and no more.
        let first = Ask::post("/registry/heartbeat")
            .token(&caller.token)
            .json(caller.heartbeat_body())
            .to(served.address)
            .await;
        assert_eq!(first.status, 200, "{first:?}");
    }
    let heartbeats = agents::begin(agents, served.address, SPEED, &stop).await;
    let before = Seen::of(served).await;
    let ids = |of: &[served::Caller]| of.iter().map(|caller| caller.id.clone()).collect::<BTreeSet<_>>();
    let (watched, silent) = (ids(&served.agents), ids(&served.silent));
    for id in &watched {
        let status = before.status(id);
        assert_eq!(status, "online", "an agent that sends heartbeats is {status} before the attack");
    }
    section.count("agents that send a heartbeat every 30 s", watched.len() as u64);
    section.count("agents without further heartbeats, as a control", silent.len() as u64);
    section.count("descriptors of the process before the attack", before.used.descriptors as u64);
    section.count("memory of the process before the attack, KiB (PSS)", before.used.memory_kib);

    let until = Instant::now() + if settings.long { LONG } else { SHORT };
    let attackers = attackers(settings, served, &notes, until);
    let most = watch(served, until);
    let (most, ()) = tokio::join!(most, attackers);
    let after_attack = Instant::now();
    // The attack's connections are closed while the agents still send heartbeats.
    let rest = at_rest(served, before.used.descriptors).await;
    stop.cancel();
    let results = heartbeats.await;

    section.count("descriptors of the process at most", most.descriptors as u64);
    section.count("memory of the process at most, KiB (PSS)", most.memory_kib);
    section.count("memory of the process after the attack, KiB (PSS)", rest.memory_kib);
    section.expect(most.memory_kib < MEMORY_MAX_KIB, || {
        format!("the process used {} KiB, more than {MEMORY_MAX_KIB}", most.memory_kib)
    });
    let ceiling = CONNECTIONS_MAX + before.used.descriptors + OTHER_DESCRIPTORS;
    section.expect(most.descriptors <= ceiling, || {
        format!("the process had {} descriptors open, more than {ceiling}", most.descriptors)
    });
    section.expect(rest.descriptors <= before.used.descriptors + OTHER_DESCRIPTORS, || {
        format!(
            "{:?} after the attack, {} descriptors are open; before it, {} were",
            after_attack.elapsed(),
            rest.descriptors,
            before.used.descriptors
        )
    });
    print_heartbeats(results, section);
    print_crowds(&notes, section);
    let after = Seen::of(served).await;
    compare(&before, &after, &watched, section);
    if settings.seed.is_none() {
        print_noise(&notes, section);
    }
    for id in &silent {
        let status = after.status(id);
        section.expect(matches!(status, "awaiting_agent" | "degraded"), || {
            format!("{id} sends no heartbeats and is {status}: without detection, this run proves nothing")
        });
    }
    section.expect(served.memory_is_true(), || "the state in memory differs from the tables".into());
    for line in served.log().lines().filter(|line| line.contains("panicked") || line.contains(" ERROR ")) {
        notes.broke(format!("the daemon's log: {line}"));
    }
    notes.into_section(section);
}

/// Runs all attackers in parallel until `until`.
async fn attackers(settings: &Settings, served: &Served, notes: &Notes, until: Instant) {
    let mut all = tokio::task::JoinSet::new();
    let seeds = settings.seed.map_or(SEED..SEED + NOISY, |seed| seed..seed + 1);
    println!(
        "  hostile requests from seeds {} to {}, for {:?}",
        seeds.start,
        seeds.end - 1,
        until - Instant::now()
    );
    for seed in seeds {
        let target = noise::Target::of(served);
        all.spawn(noise::make(seed, target, notes.clone(), until));
    }
    if settings.seed.is_none() {
        all.spawn(crowds::drip(served.address, served.noisy.clone(), SPEED, notes.clone(), until));
        all.spawn(crowds::flood(served.address, notes.clone(), until));
    }
    while let Some(ended) = all.join_next().await {
        if let Err(error) = ended {
            notes.broke(format!("an attacker panicked: {error}"));
        }
    }
}

/// Peak usage of the process until `until`.
async fn watch(served: &Served, until: Instant) -> Used {
    let mut most = Used::default();
    let mut interval = tokio::time::interval(Duration::from_millis(250));
    while Instant::now() < until {
        interval.tick().await;
        let used = served.used();
        most.memory_kib = most.memory_kib.max(used.memory_kib);
        most.descriptors = most.descriptors.max(used.descriptors);
    }
    most
}

/// Usage of the process once no more descriptors than before the attack are open, or when the time limit has passed.
async fn at_rest(served: &Served, descriptors: usize) -> Used {
    let begun = Instant::now();
    let mut interval = tokio::time::interval(Duration::from_millis(100));
    loop {
        interval.tick().await;
        let used = served.used();
        if used.descriptors <= descriptors + OTHER_DESCRIPTORS || begun.elapsed() > PATIENCE {
            return used;
        }
    }
}

fn print_heartbeats(results: Vec<AgentResult>, section: &mut Section) {
    let mut took: Vec<_> = results.iter().flat_map(|result| result.took.iter().copied()).collect();
    took.sort_unstable();
    let fewest = results.iter().map(|result| result.took.len()).min().unwrap_or_default();
    section.count("heartbeats answered with 200", took.len() as u64);
    section.count("heartbeats of the agent with the fewest", fewest as u64);
    section.expect(fewest >= 6, || {
        format!("an agent had only {fewest} heartbeats answered: too few to prove anything")
    });
    let gap = results.iter().map(|result| result.longest_gap).max().unwrap_or_default();
    section.count(
        "longest time between two heartbeats as sent, ms",
        u64::try_from(gap.as_millis()).unwrap_or(u64::MAX),
    );
    let missed: Vec<_> = results.into_iter().flat_map(|result| result.missed).collect();
    section.count("heartbeats not answered with 200", missed.len() as u64);
    section.expect(missed.is_empty(), || {
        let some: Vec<_> = missed.iter().take(5).map(String::as_str).collect();
        format!("{} heartbeats were not answered with 200, such as {}", missed.len(), some.join("; "))
    });
    let late = took.iter().filter(|took| **took > agents::RUNTIMES_WAIT).count();
    section.count("heartbeats answered later than runtimes wait for (10 s)", late as u64);
    let at = |percent: usize| took.get(took.len() * percent / 100).copied().unwrap_or_default();
    let rows = [("p50", 50), ("p90", 90), ("p99", 99)];
    let row = |(name, percent)| [String::from(name), format!("{:.1} ms", at(percent).as_secs_f64() * 1000.0)];
    section.table("Latency of heartbeats under attack", ["percentile", "within"], rows.map(row));
}

fn print_crowds(notes: &Notes, section: &mut Section) {
    for (what, least) in [(crowds::OPENED, 1000), (crowds::DRIPPED, 100), (crowds::CUT, 10)] {
        let count = notes.counted(what);
        // A run with `--seed` has no crowds, which are slow and idle connections.
        let none = notes.counted(crowds::OPENED) == 0 && notes.counted(crowds::DRIPPED) == 0;
        section.expect(none || count >= least, || format!("only {count} {what}"));
    }
}

fn print_noise(notes: &Notes, section: &mut Section) {
    for (status, least) in
        [(200, 200), (400, 500), (401, 500), (403, 200), (404, 200), (405, 100), (413, 10), (501, 20)]
    {
        let count = notes.counted(&noise::answered(status));
        section.expect(count >= least, || {
            format!("only {count} answers of {status}: the hostile requests no longer cover this case")
        });
    }
}

/// The admin's view.
struct Seen {
    workspaces: BTreeMap<String, Value>,
    /// Number of the newest event.
    newest: i64,
    events: Vec<Value>,
    used: Used,
}

/// Fields of an agent's row that its heartbeats change. All other fields must stay the same.
const MOVES: [&str; 3] = ["last_heartbeat_at", "last_activity_at", "uptime_seconds"];

impl Seen {
    async fn of(served: &Served) -> Self {
        let ask = async |path: &str| served.order(Ask::get(path)).await.well();
        let list = ask("/workspaces").await;
        let workspaces = list
            .as_array()
            .expect("a list")
            .iter()
            .map(|one| (one["id"].as_str().expect("an id").to_owned(), one.clone()));
        let events = served.events();
        let newest = events.last().and_then(|event| event["id"].as_i64()).unwrap_or_default();
        Self { workspaces: workspaces.collect(), newest, events, used: served.used() }
    }

    fn status(&self, id: &str) -> &str {
        self.workspaces.get(id).and_then(|one| one["status"].as_str()).unwrap_or("gone")
    }
}

/// Checks that nothing happened to these agents: no events, and no changes of their rows.
fn compare(before: &Seen, after: &Seen, watched: &BTreeSet<String>, section: &mut Section) {
    let of_them = |event: &&Value| event["workspace_id"].as_str().is_some_and(|id| watched.contains(id));
    let since: Vec<_> =
        after.events.iter().filter(|event| event["id"].as_i64() > Some(before.newest)).collect();
    section.count("events during the attack", since.len() as u64);
    let reported: Vec<_> = since.into_iter().filter(of_them).collect();
    section.expect(reported.is_empty(), || {
        let some: Vec<_> = reported.iter().take(5).map(ToString::to_string).collect();
        format!("{} events about agents that send heartbeats, such as {}", reported.len(), some.join("; "))
    });
    let still = |seen: &Seen, id: &String| {
        let mut one = seen.workspaces.get(id).cloned().unwrap_or_default();
        if let Some(one) = one.as_object_mut() {
            one.retain(|key, _| !MOVES.contains(&key.as_str()));
        }
        one
    };
    let changed: Vec<_> = watched.iter().filter(|id| still(before, id) != still(after, id)).collect();
    section.count("agents with compared rows", watched.len() as u64);
    section.expect(changed.is_empty(), || {
        let first = changed[0];
        format!(
            "{} agents' rows changed, such as {} from {} to {}",
            changed.len(),
            first,
            still(before, first),
            still(after, first)
        )
    });
}
