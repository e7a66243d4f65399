//! `kill -9` at every durable step of the real daemon, on real Podman.
//!
//! The places are those of `src/testing/crash_point.rs`: one right before and one right after each step. Each place is hit
//! once, in a [`Scenario`] that passes it. The daemon is started with the place in its environment, receives a
//! command, and kills itself by SIGKILL when it reaches the place. The next daemon is started without the place.
//! Everything has to converge, and ostler's state has to agree with Podman's (`support/truth.rs`). A place that is not
//! hit is a failure.

mod agents;
mod beginnings;
mod orders;
mod starts;
mod sweeps;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    os::unix::process::ExitStatusExt,
    panic::{AssertUnwindSafe, catch_unwind},
    process::{ExitStatus, Stdio},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use ostler::testing::crash_point::{STEPS, VARIABLE};
use tempfile::TempDir;

use crate::{
    Settings,
    report::Section,
    support::{
        daemon::{CommandOutput, Site, until},
        engine_proxy::EngineProxy,
        hasty::HASTY,
        podman::Cleanup,
        truth::{assert_truthful, containers, converge},
    },
};

/// Sites used in parallel. Each mostly waits for Podman, or for a readiness or a grace period to pass.
const SITES: usize = 4;
const MOMENTS: [&str; 2] = ["before", "after"];
const SIGKILL: i32 = 9;
/// Time limit for reaching a place. Most take a second.
const REACHED_WITHIN: Duration = Duration::from_mins(1);
const CHECK_INTERVAL: Duration = Duration::from_millis(20);

/// A site, and the state that a scenario keeps between its hooks.
struct Stage {
    proxy: EngineProxy,
    site: Site,
    /// Number of this site's current round, for names that must not be reused.
    round: usize,
    /// A token or an id that one hook leaves for a later one.
    kept: String,
    /// A copy of the database.
    copy: Option<TempDir>,
    /// Removes what was made outside the site.
    cleanups: Vec<Cleanup>,
}

impl Stage {
    fn new(scenario: &Scenario) -> Self {
        let proxy = EngineProxy::start();
        let hasty = HASTY.replacen("[sweep]\n", &format!("[sweep]\n{}", scenario.sweep), 1);
        // Four sites in parallel slow Podman down on a small machine.
        let patient = hasty.replace("read_deadline = \"10s\"", "read_deadline = \"1m\"");
        let config = (scenario.change)(&patient) + scenario.more;
        let site = Site::on(proxy.socket_path(), &config);
        let mut stage = Self { proxy, site, round: 0, kept: String::new(), copy: None, cleanups: Vec::new() };
        (scenario.set)(&mut stage);
        stage
    }

    /// A name that is unique to this round.
    fn named(&self, what: &str) -> String {
        format!("{what}-{}", self.round)
    }

    fn is_dead(&mut self) -> bool {
        self.site.has_ended().is_some()
    }

    /// Repeats a command until the daemon has killed itself.
    fn repeat(&mut self, arguments: &[&str]) {
        self.repeat_until_dead(|stage| drop(stage.order(arguments)));
    }

    /// Repeats an action until the daemon has killed itself.
    fn repeat_until_dead(&mut self, mut act: impl FnMut(&mut Self)) {
        let begun = now();
        while !self.is_dead() {
            assert!(begun.elapsed() < REACHED_WITHIN, "the place was not reached");
            act(self);
            thread::sleep(CHECK_INTERVAL);
        }
    }

    /// Purges a workspace and everything it owned.
    #[track_caller]
    fn purge(&self, name: &str) {
        let id = self.site.show(name)["id"].as_str().expect("it has an id").to_owned();
        self.site.ostler(["rm", name, "--purge"]).well();
        until(&format!("{name} is purged"), || {
            self.order(&["trash", "empty", "--yes"]);
            let gone = containers(&self.site.instance()).iter().all(|container| container.workspace != id);
            (gone && self.site.trash().is_empty()).then_some(())
        });
    }

    /// Runs a command during which the daemon may die.
    fn order(&self, arguments: &[&str]) -> CommandOutput {
        self.site.ostler(arguments.iter().copied())
    }

    /// Sends an agent's request during which the daemon may die.
    fn send(&self, path: &str, token: &str, body: &serde_json::Value) {
        self.ask(if body.is_null() { "GET" } else { "POST" }, path, token, body);
    }

    /// Like `send`, with any method.
    fn ask(&self, method: &str, path: &str, token: &str, body: &serde_json::Value) {
        use std::io::{Read, Write};
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", self.site.network_port())) else {
            return;
        };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: ostler\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let _died = stream.write_all((head + &body).as_bytes());
        let _died = stream.read_to_string(&mut String::new());
    }

    /// Runs a command with the place in the command's own environment: the command kills itself there, not the daemon.
    #[track_caller]
    fn command_dies(&self, point: &str, arguments: &[&str]) {
        let ended = self.site.command().args(arguments).env(VARIABLE, point).stdin(Stdio::null()).output();
        let ended = ended.expect("the binary runs");
        assert_died(point, ended.status, &String::from_utf8_lossy(&ended.stderr));
    }
}

#[expect(clippy::disallowed_methods, reason = "real processes take real time")]
fn now() -> Instant {
    Instant::now()
}

/// A sequence of actions that passes durable steps.
#[derive(Clone, Copy)]
struct Scenario {
    /// Description for the report.
    name: &'static str,
    /// The steps that it passes. When a step is passed for the second time, `2nd` stands before its name.
    steps: &'static [&'static str],
    /// More keys for the section `sweep`, as lines.
    sweep: &'static str,
    /// More keys for the configuration of the runtime `plain`, and sections that follow it.
    more: &'static str,
    /// Returns the configuration with any other changes.
    change: fn(&str) -> String,
    /// Maximum number of places that are tested on one site. Small batches keep all workers busy to the end, and the
    /// breaker limits what sweeps of one registry may reap within an hour.
    places_per_site: usize,
    /// Runs once for each site. The daemon has to be up afterwards, except in scenarios about its start.
    set: fn(&mut Stage),
    /// Runs before each place, with the daemon up.
    prepare: fn(&mut Stage),
    /// Runs after `prepare`, with the daemon down.
    meanwhile: fn(&mut Stage),
    /// Triggers the step at which the daemon kills itself. The daemon may already have done so at its start.
    act: fn(&mut Stage),
    /// Runs the command that kills itself at the place, in scenarios in which the daemon does not.
    instead: Option<fn(&Stage, &str)>,
    /// Removes obstacles to the next start.
    mend: fn(&mut Stage),
    /// Operator actions before everything converges. The daemon is up.
    then: fn(&mut Stage),
    /// Checks after convergence, in addition to those that always apply.
    check: fn(&mut Stage, &str),
}

const SCENARIO: Scenario = Scenario {
    name: "",
    steps: &[],
    sweep: "",
    more: "",
    change: str::to_owned,
    places_per_site: 6,
    set: |stage| {
        stage.site.serve();
        converge(&stage.site);
    },
    prepare: |_| {},
    meanwhile: |_| {},
    act: |_| {},
    instead: None,
    mend: |_| {},
    then: |_| {},
    check: |_, _| {},
};

fn scenarios() -> impl Iterator<Item = &'static Scenario> {
    [starts::ALL, beginnings::ALL, orders::ALL, sweeps::ALL, agents::ALL].into_iter().flatten()
}

#[track_caller]
fn assert_died(point: &str, status: ExitStatus, log: &str) {
    assert_eq!(status.signal(), Some(SIGKILL), "the process was not killed by SIGKILL, {status}: {log}");
    assert!(
        log.lines().any(|line| line == format!("crash point: {point}")),
        "the process was not killed at `{point}`: {log}"
    );
}

/// Kills the process at one place and checks that the next daemon recovers.
fn hit(stage: &mut Stage, scenario: &Scenario, point: &str) {
    (scenario.prepare)(stage);
    stage.site.stop();
    (scenario.meanwhile)(stage);
    if let Some(command) = scenario.instead {
        command(stage, point);
    } else {
        daemon_dies(stage, point, |stage| (scenario.act)(stage));
    }
    (scenario.mend)(stage);
    stage.site.serve();
    (scenario.then)(stage);
    converge(&stage.site);
    assert_truthful(&stage.site);
    (scenario.check)(stage, point);
    stage.round += 1;
}

/// Runs the daemon until it dies at the place, during its start or during `act`.
fn daemon_dies(stage: &mut Stage, point: &str, act: impl FnOnce(&mut Stage)) {
    let logged = stage.site.log().len();
    stage.site.set_daemon_env(VARIABLE, Some(point.to_owned()));
    stage.site.begin_to_serve();
    stage.site.set_daemon_env(VARIABLE, None);
    until("the daemon answers, or has died", || (stage.is_dead() || stage.site.answers()).then_some(()));
    if !stage.is_dead() {
        act(stage);
    }
    stage.repeat_until_dead(|_| {});
    let status = stage.site.has_ended().expect("it has died");
    stage.site.kill();
    assert_died(point, status, &stage.site.log()[logged..]);
}

/// Result of one place.
struct Outcome {
    scenario: &'static str,
    point: String,
    broken: Option<String>,
}

/// Tests some places of a scenario, one after the other.
fn go_through(scenario: &'static Scenario, places: &[String], outcomes: &Mutex<Vec<Outcome>>) {
    let mut stage = None;
    for point in places {
        let done = catch_unwind(AssertUnwindSafe(|| {
            let stage = stage.get_or_insert_with(|| Stage::new(scenario));
            hit(stage, scenario, point);
        }));
        let broken = done.err().map(|panic| panic_message(&*panic));
        if broken.is_some() {
            eprintln!("{}, {point}: the daemon's log:\n{}", scenario.name, logged(stage.as_ref()));
        }
        if broken.is_some() {
            // After a failure the site's state is unknown, so the next place gets a new site.
            stage = None;
        }
        let outcome = Outcome { scenario: scenario.name, point: point.clone(), broken };
        outcomes.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
    }
}

fn logged(stage: Option<&Stage>) -> String {
    stage.map(|stage| stage.site.log()).unwrap_or_default()
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked").to_owned()
}

/// The step of a place, without its moment and ordinal.
fn step_of(point: &str) -> &str {
    let step = point.split_once(' ').map_or(point, |(_, step)| step);
    bare(step)
}

/// A step without its ordinal.
fn bare(step: &str) -> &str {
    step.strip_prefix("2nd ").unwrap_or(step)
}

/// Steps that no scenario passes, and steps in scenarios that do not exist.
fn missed() -> Vec<String> {
    let known: BTreeSet<_> = STEPS.iter().map(|(step, _)| *step).collect();
    let passed: BTreeSet<_> =
        scenarios().flat_map(|scenario| scenario.steps).map(|step| bare(step)).collect();
    let unpassed = known.difference(&passed).map(|step| format!("no scenario passes `{step}`"));
    let unknown =
        passed.difference(&known).map(|step| format!("`{step}` is not a step of src/testing/crash_point.rs"));
    unpassed.chain(unknown).collect()
}

pub(crate) fn run(settings: &Settings, section: &mut Section) {
    for broken in missed() {
        section.broke(broken);
    }
    let rounds = if settings.long { 3 } else { 1 };
    let mut work = VecDeque::new();
    for scenario in (0..rounds).flat_map(|_| scenarios()) {
        let places: Vec<_> = scenario
            .steps
            .iter()
            .flat_map(|step| MOMENTS.map(|moment| format!("{moment} {step}")))
            .filter(|point| chosen(scenario, point))
            .collect();
        work.extend(places.chunks(scenario.places_per_site).map(|places| (scenario, places.to_vec())));
    }
    let (work, outcomes) = (Mutex::new(work), Mutex::new(Vec::new()));
    thread::scope(|threads| {
        for _ in 0..SITES {
            threads.spawn(|| {
                loop {
                    let next = work.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    let Some((scenario, places)) = next else { return };
                    go_through(scenario, &places, &outcomes);
                }
            });
        }
    });
    report(&outcomes.into_inner().unwrap_or_else(PoisonError::into_inner), section);
}

/// The variable `CRASH_POINTS` limits the run to places or scenarios that contain its text, to debug a failure.
fn chosen(scenario: &Scenario, point: &str) -> bool {
    std::env::var("CRASH_POINTS").map_or(true, |text| point.contains(&text) || scenario.name.contains(&text))
}

fn report(outcomes: &[Outcome], section: &mut Section) {
    let mut by_step: BTreeMap<&str, Vec<&Outcome>> = BTreeMap::new();
    for outcome in outcomes {
        by_step.entry(step_of(&outcome.point)).or_default().push(outcome);
        if let Some(broken) = &outcome.broken {
            section.broke(format!("{}, {}: {broken}", outcome.scenario, outcome.point));
        }
    }
    let narrowed = std::env::var("CRASH_POINTS").is_ok();
    let hit = |outcome: &&&Outcome| outcome.broken.is_none();
    let transactions = STEPS.iter().filter(|(step, _)| !step.contains(": ")).count();
    section.count("durable steps: transactions of the registry", transactions as u64);
    section.count("durable steps: files, and changes of the engine", (STEPS.len() - transactions) as u64);
    section.count("crash points hit: SIGKILL, restart and convergence", {
        outcomes.iter().filter(|outcome| outcome.broken.is_none()).count() as u64
    });
    for (step, what) in STEPS {
        let there = by_step.get(step).map(Vec::as_slice).unwrap_or_default();
        for moment in MOMENTS {
            let of_moment = there.iter().filter(|outcome| outcome.point.starts_with(moment));
            section.expect(narrowed || of_moment.filter(hit).count() > 0, || {
                format!("no process was killed {moment} `{step}` ({what}) and converged afterwards")
            });
        }
    }
    section.table(
        "Durable steps, and how often the daemon was killed there",
        ["step", "description", "scenarios", "kills"],
        STEPS.iter().map(|(step, what)| {
            let there = by_step.get(step).map(Vec::as_slice).unwrap_or_default();
            let scenarios: BTreeSet<_> = there.iter().map(|outcome| outcome.scenario).collect();
            let scenarios = scenarios.into_iter().collect::<Vec<_>>().join("; ");
            [(*step).to_owned(), (*what).to_owned(), scenarios, there.iter().filter(hit).count().to_string()]
        }),
    );
}
