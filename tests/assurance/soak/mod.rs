//! Soak campaign: real Podman, the real binary, and all kinds of failures at once.
//!
//! Fifty workspaces run on a Podman service of the campaign's own. Then, for a minute (ten with `--long`), processes,
//! conmons, the service and the daemon are killed, containers and configuration are deleted, unknown objects are
//! added, and several simulated operators give commands. Afterwards an operator approves the held plans. As soon as
//! nothing is left to do, everything is checked against Podman, the database, and the tokens that the processes hold.
//!
//! Choices come from a seed, which is printed; their outcome depends on a real machine.

mod chaos;
mod foreign;
pub(crate) mod storm;
mod truth;
mod users;

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize},
    },
    thread,
    time::{Duration, Instant},
};

use ostler::runtime::entropy::{Entropy as _, SystemEntropy};
use serde_json::Value;

use crate::{
    Settings,
    report::{self, Section},
    support::{
        daemon::{CommandOutput, Site, until},
        podman::{self, Cleanup, Service, podman_output},
        ports::{CAMPAIGNS, Ports},
        rng::Rng,
    },
};
use users::{MemberKind, Tree, User};

/// Duration of the chaos.
const CI: Duration = Duration::from_mins(1);
const LONG: Duration = Duration::from_mins(10);
/// Number of operators whose commands are recorded. Each has its own workspaces. One additional operator gives commands
/// to a tree without a record.
const USERS: usize = 3;
/// Number of host ports.
const PORTS: u16 = 200;
/// Workspaces that start in parallel at the beginning.
const AT_ONCE: usize = 6;
/// Average interval between two commands, in milliseconds.
const BETWEEN_COMMANDS: usize = 500;
/// File in each work volume; its content must not be lost.
const MARKER: &str = "soak-marker";
/// Exits at once on SIGTERM, and saves the token with which it was started.
const PLAIN_AGENT: &str =
    "trap 'exit 0' TERM; cat /configs/.auth_token > /tmp/held; while :; do sleep 3600 & wait $!; done";
/// A workspace with a process that always exits.
const CRASHER: &str = "crasher";
/// Workspaces whose work volume is deleted during the chaos.
const LOSERS: [&str; 2] = ["loser-1", "loser-2"];

/// Short graces, so that timed actions happen during the campaign, and a restart budget that a minute can exhaust.
fn configuration(ports: &Ports) -> String {
    format!(
        "ports = \"{}\"\n\
         [engine]\nread_deadline = \"60s\"\n\
         [sweep]\ncheck_interval = \"5s\"\nabsence_grace = \"2s\"\nunknown_grace = \"2s\"\n\
         [restart]\nfirst_backoff = \"1s\"\nlongest_backoff = \"4s\"\nreset_after = \"15s\"\npark_after_exits = 6\n\
         [runtimes.plain]\nstop_grace = \"2s\"\n\
         [runtimes.agent]\nstop_grace = \"2s\"\n",
        ports.range()
    )
}

/// A random element; `None` if there is none.
fn any<'a, T>(rng: &mut Rng, of: &'a [T]) -> Option<&'a T> {
    (!of.is_empty()).then(|| &of[rng.below(of.len())])
}

/// Sleeps for about this many milliseconds. Without pauses, the campaign would use two cores completely.
fn pause(rng: &mut Rng, milliseconds: usize) {
    let span = milliseconds / 2 + rng.below(milliseconds);
    thread::sleep(Duration::from_millis(span as u64));
}

/// Shared by all threads: the log of the run, counters, and the content of work volumes.
struct Record {
    began: Instant,
    run_log: Mutex<Vec<String>>,
    counts: Mutex<BTreeMap<String, u64>>,
    /// By workspace id.
    markers: Mutex<BTreeMap<String, String>>,
    over: AtomicBool,
    /// Number of commands that a daemon answered, with any result.
    answered: AtomicUsize,
}

impl Record {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            run_log: Mutex::default(),
            counts: Mutex::default(),
            markers: Mutex::default(),
            over: AtomicBool::new(false),
            answered: AtomicUsize::new(0),
        }
    }

    fn print(&self, line: impl AsRef<str>) {
        let at = self.began.elapsed().as_secs_f64();
        self.run_log
            .lock()
            .expect("no holder of the lock panics")
            .push(format!("{at:8.3}  {}", line.as_ref()));
    }

    fn count(&self, what: impl Into<String>) {
        *self.counts.lock().expect("no holder of the lock panics").entry(what.into()).or_default() += 1;
    }

    /// Writes a marker that must not be lost into a work volume.
    fn mark(&self, workspace: &str, directory: &std::path::Path, rng: &mut Rng) {
        let text = format!("{workspace} {:016x}", rng.next());
        fs::write(directory.join(MARKER), &text).expect("the work volume can be written to");
        self.markers.lock().expect("no holder of the lock panics").insert(workspace.to_owned(), text);
    }
}

/// An operator at another terminal: gives commands to a site's daemon from any thread, also while the daemon is
/// killed.
#[derive(Clone)]
struct Operator {
    program: OsString,
    environment: Vec<(OsString, Option<OsString>)>,
}

impl Operator {
    fn of(site: &Site) -> Self {
        let command = site.command();
        let environment =
            command.get_envs().map(|(name, value)| (name.to_owned(), value.map(OsStr::to_owned))).collect();
        Self { program: command.get_program().to_owned(), environment }
    }

    /// Runs an `ostler` command with a time limit in seconds; the exit code is 124 when the limit passes.
    fn ostler<'a>(&self, limit: u32, arguments: impl IntoIterator<Item = &'a str>) -> CommandOutput {
        let mut command = Command::new("timeout");
        command.arg(limit.to_string()).arg(&self.program).args(arguments).stdin(Stdio::null());
        for (name, value) in &self.environment {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        CommandOutput::of(&command.output().expect("the binary runs"))
    }
}

/// The rows, including removed ones if `removed`; empty if the daemon does not answer.
fn rows(operator: &Operator, removed: bool) -> Vec<Value> {
    let more = if removed { &["--removed"][..] } else { &[] };
    let shown = operator.ostler(60, ["ls", "--json"].into_iter().chain(more.iter().copied()));
    serde_json::from_str(&shown.stdout).unwrap_or_default()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// The seed of this run, printed before it is used.
fn seed_of(settings: &Settings) -> u64 {
    let seed = settings.seed.unwrap_or_else(|| u64::from(SystemEntropy.uuid().as_fields().0));
    println!("  seed {seed}");
    seed
}

pub(crate) fn run(settings: &Settings, section: &mut Section) {
    let seed = seed_of(settings);
    let record = Record::new();
    let lasts = if settings.long { LONG } else { CI };
    let ports = Ports::take(&CAMPAIGNS, PORTS);
    let mut service = Service::start();
    // `sweeper` removes the objects after the site was dropped, even after a panic.
    #[allow(clippy::needless_late_init, reason = "declared before the site, it is dropped after it")]
    let sweeper;
    let mut site = Site::on(&service.socket(), &configuration(&ports));
    site.serve();
    let (instance, log) = (site.instance(), site.directory().join("serve.log"));
    sweeper = Sweeper(instance.clone());
    let operator = Operator::of(&site);
    let mut rng = Rng::new(seed, 0);
    let mut trees = create_trees(&operator, &mut rng);
    mark_all(&instance, &operator, &record, &mut rng);
    let lead = text(&site.show("t0")["id"]);
    let foreign = foreign::Foreign::create_foreign(&instance, &lead);
    record.print("everything is up");
    section.count("workspaces", rows(&operator, false).len() as u64);

    let effects = thread::scope(|threads| {
        for (number, tree) in trees.iter_mut().enumerate() {
            let (operator, record) = (operator.clone(), &record);
            let rng = Rng::new(seed, 10 + number as u64);
            let user = User {
                tree,
                operator,
                record,
                rng,
                keeps_record: number < USERS,
                between_commands: BETWEEN_COMMANDS,
                may_create: true,
                // On a slow machine every answer may be unclear. The first operator therefore repeats such commands at
                // the end, so that there are clear answers to check.
                makes_sure: number == 0,
            };
            threads.spawn(move || user.run());
        }
        // Ends the operators however the chaos ends; otherwise the scope would never end.
        let _end = EndOperators(&record.over);
        chaos::Chaos::new(&mut site, &mut service, &record, Rng::new(seed, 1)).inject(lasts)
    });
    record.print("the chaos is over");

    let truth =
        truth::Truth { site: &site, operator: &operator, record: &record, trees: &trees, effects: &effects };
    let patience = if settings.long { Duration::from_mins(16) } else { Duration::from_mins(3) };
    truth.check(section, &foreign, patience);
    let counts = record.counts.lock().expect("no holder of the lock panics").clone();
    for (what, count) in counts {
        section.count(what, count);
    }
    let workspaces: Vec<_> = rows(&operator, true).iter().map(|row| text(&row["id"])).collect();
    site.stop();
    let daemon_log = fs::read_to_string(&log).unwrap_or_default();
    save_run_log("soak", &record, &daemon_log, seed);
    drop((foreign, site, service));
    drop(sweeper);
    remove_half_made(&workspaces, section);
    let left = Sweeper(instance).left();
    section.expect(left.is_empty(), || format!("objects are left: {left:?}"));
}

/// Ends the operators' threads when dropped.
struct EndOperators<'a>(&'a AtomicBool);

impl Drop for EndOperators<'_> {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Release);
    }
}

/// Creates the workspaces and waits until they are up.
fn create_trees(operator: &Operator, rng: &mut Rng) -> Vec<Tree> {
    let mut trees: Vec<Tree> = (0..=USERS).map(|number| Tree::new(&format!("t{number}"), rng)).collect();
    let mut made = Vec::new();
    let members = trees.iter().flat_map(|tree| {
        tree.members.iter().map(|member| (member, member.parent.map(|at| tree.members[at].name.clone())))
    });
    for (member, parent) in members {
        create_workspace(operator, &member.name, member.kind, parent.as_deref(), true);
        if member.kind != MemberKind::External {
            made.push(member.name.clone());
        }
        if made.len() % AT_ONCE == 0 {
            until_up(operator, &made);
        }
    }
    for name in LOSERS {
        create_workspace(operator, name, MemberKind::Plain, None, true);
        made.push(name.to_owned());
    }
    let crash = ["create", CRASHER, "--no-wait", "--image", podman::image(), "--", "sh", "-c", "exit 3"];
    operator.ostler(60, crash).well();
    until_up(operator, &made);
    for tree in &mut trees {
        tree.record_all_up();
    }
    trees
}

/// Creates a workspace; returns the command's exit code.
fn create_workspace(
    operator: &Operator,
    name: &str,
    kind: MemberKind,
    parent: Option<&str>,
    must: bool,
) -> i32 {
    let mut arguments = vec!["create", name];
    arguments.extend(parent.iter().flat_map(|parent| ["--parent", parent]));
    match kind {
        MemberKind::External => arguments.push("--external"),
        MemberKind::Plain => arguments.extend(["--image", podman::image()]),
        MemberKind::Agent => {
            arguments.extend(["--runtime", "agent", "--image", podman::demo_image()]);
            // With this interval, agents send a heartbeat soon after the daemon is up again.
            arguments.extend(["--env", "DEMO_BEAT_SECONDS=5"]);
        }
    }
    if must && kind != MemberKind::External {
        arguments.push("--no-wait");
    }
    if kind == MemberKind::Plain {
        arguments.extend(["--", "sh", "-c", PLAIN_AGENT]);
    }
    let output = operator.ostler(90, arguments);
    if must {
        output.well();
        return 0;
    }
    output.code
}

fn until_up(operator: &Operator, names: &[String]) {
    until("the initial workspaces are online", || {
        let rows = rows(operator, false);
        let up =
            |name: &String| rows.iter().any(|row| row["name"] == name.as_str() && row["status"] == "online");
        names.iter().all(up).then_some(())
    });
}

/// Writes a marker into every work volume.
fn mark_all(instance: &str, operator: &Operator, record: &Record, rng: &mut Rng) {
    let volumes = work_volumes(instance);
    for row in rows(operator, false) {
        if let Some(directory) = volumes.get(&text(&row["id"])) {
            record.mark(&text(&row["id"]), directory, rng);
        }
    }
}

/// Host directories of the work volumes, by workspace.
fn work_volumes(instance: &str) -> BTreeMap<String, PathBuf> {
    let filter = format!("label=ostler.instance={instance}");
    let listed = podman_output(["volume", "ls", "--format", "json", "--filter", &filter]);
    let listed: Vec<Value> = serde_json::from_str(&listed).expect("podman volume ls prints JSON");
    let work = |volume: &Value| {
        let workspace = text(&volume["Labels"]["ostler.workspace"]);
        let is_work = volume["Name"] == format!("ostler-{workspace}-work");
        is_work.then(|| (workspace, PathBuf::from(text(&volume["Mountpoint"]))))
    };
    listed.iter().filter_map(work).collect()
}

/// Writes the log of the run next to the report, for debugging.
fn save_run_log(campaign: &str, record: &Record, daemon_log: &str, seed: u64) {
    let run_log = record.run_log.lock().expect("no holder of the lock panics").join("\n");
    let directory = report::directory();
    fs::create_dir_all(&directory).expect("the report's directory is created");
    let text = format!("seed {seed}\n{run_log}\n\nthe daemon's log:\n{daemon_log}");
    fs::write(directory.join(format!("{campaign}.log")), text).expect("the log of the run is written");
}

/// Removes objects with our label, also when the campaign fails. It retries, because an overloaded Podman refuses to
/// remove containers that do not end in time.
struct Sweeper(String);

impl Sweeper {
    const TRIES: usize = 5;

    fn left(&self) -> Vec<String> {
        let filter = format!("label=ostler.instance={}", self.0);
        let lists =
            [&["ps", "--all", "--quiet"][..], &["volume", "ls", "--quiet"], &["network", "ls", "--quiet"]];
        let left = lists.iter().map(|list| podman_output(list.iter().copied().chain(["--filter", &filter])));
        left.flat_map(|left| left.lines().map(str::to_owned).collect::<Vec<_>>()).collect()
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        for _ in 0..Self::TRIES {
            if self.left().is_empty() {
                return;
            }
            let name = format!("ostler-{}", self.0);
            drop(Cleanup::of_label(format!("ostler.instance={}", self.0)).and_name(name));
        }
    }
}

/// Removes containers that exist only in the storage, because the service was killed in the middle of a request.
fn remove_half_made(workspaces: &[String], section: &mut Section) {
    let listed = podman_output(["ps", "--all", "--external", "--format", "{{.ID}} {{.Names}}"]);
    for line in listed.lines() {
        let Some((id, name)) = line.split_once(' ') else { continue };
        if workspaces.iter().any(|workspace| name.contains(workspace)) {
            section.count("containers left only in Podman's storage, removed", 1);
            podman_output(["rm", "--force", id]);
        }
    }
}
