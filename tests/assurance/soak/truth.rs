//! Checks of the final state.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::{Duration, Instant},
};

use ostler::domain::status::{Failure, MOVES, Status};
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{
    CRASHER, LOSERS, MARKER, Operator, Record,
    chaos::Effects,
    foreign::Foreign,
    rows, text,
    users::{KnownState, MemberKind, Tree},
    work_volumes,
};
use crate::{
    report::Section,
    support::{
        daemon::{Site, until},
        podman::{has_ended, podman_output},
    },
};

const TOKEN_CHARS: usize = 43;
const CHECK_INTERVAL: Duration = Duration::from_millis(400);

/// The invariants, in the order of the report's table.
const ONE_RUNS: &str = "a workspace that is up has one running container, the one that its row names";
const NONE_RUNS: &str = "a workspace that is not up has no running container";
const ONE_TOKEN: &str = "the token file, the process and the store have the same single live token";
const WORK: &str = "a live workspace keeps its work volume and the content";
const TRASH: &str = "a removed workspace is in the trash, stopped, with its work volume";
const KNOWN: &str = "every object of ours belongs to a row or to the trash";
const AT_REST: &str = "every status is one that a workspace may keep when nothing is in progress";
const ANSWERS: &str = "every answer to an operator is true";
const HISTORY: &str = "events have no gap, report allowed transitions, and end in the current status";
const NO_PANIC: &str = "the daemon never panicked";
const FOREIGN: &str = "foreign objects are unchanged";
const LOST: &str = "a workspace with a lost work volume waits for an operator";
const PARKED: &str = "a workspace that always exits is parked";
const RESTORED: &str = "a removed workspace can be restored";
const CONVERGED: &str = "the system converges after the chaos";
const PROMISES: [&str; 15] = [
    CONVERGED, ONE_RUNS, NONE_RUNS, ONE_TOKEN, WORK, TRASH, KNOWN, AT_REST, ANSWERS, HISTORY, NO_PANIC,
    FOREIGN, LOST, PARKED, RESTORED,
];

/// How often each invariant was checked, and how often it did not hold.
struct Checks<'a> {
    section: &'a mut Section,
    of: BTreeMap<&'static str, (u64, u64)>,
}

impl Checks<'_> {
    fn that(&mut self, promise: &'static str, holds: bool, otherwise: impl FnOnce() -> String) {
        let (checked, broken) = self.of.entry(promise).or_default();
        *checked += 1;
        if !holds {
            *broken += 1;
            self.section.broke(format!("{promise}: {}", otherwise()));
        }
    }

    /// Adds the table of checks; each of these invariants must have been checked at least once.
    fn report(self, promises: &[&'static str]) {
        let Self { section, of } = self;
        let checked = |promise: &str| of.get(promise).map_or(0, |(checked, _)| *checked);
        for promise in promises {
            section.expect(checked(promise) > 0, || format!("never checked: {promise}"));
        }
        let counts = |promise: &&'static str| {
            let (checked, broken) = of.get(promise).copied().unwrap_or_default();
            [(*promise).to_owned(), checked.to_string(), broken.to_string()]
        };
        let table: Vec<_> = PROMISES.iter().filter(|promise| checked(promise) > 0).map(counts).collect();
        section.table("Invariants of the final state", ["invariant", "checked", "broken"], table);
    }
}

/// Invariants that must hold without intervention; every run has something to check for them.
const UNATTENDED: [&str; 6] = [WORK, KNOWN, AT_REST, ANSWERS, HISTORY, NO_PANIC];

/// A container of ours, as Podman reports it.
struct Container {
    id: String,
    name: String,
    workspace: String,
    runs: bool,
    pid: i64,
}

/// The sources to compare.
pub(super) struct Truth<'a> {
    pub(super) site: &'a Site,
    pub(super) operator: &'a Operator,
    pub(super) record: &'a Record,
    pub(super) trees: &'a [Tree],
    pub(super) effects: &'a Effects,
}

impl Truth<'_> {
    /// Waits until nothing is left to do, then checks everything.
    pub(super) fn check(&self, section: &mut Section, foreign: &Foreign, patience: Duration) {
        let mut checks = Checks { section, of: BTreeMap::new() };
        let began = Instant::now();
        let converged = self.converge(patience);
        checks.that(CONVERGED, converged.is_ok(), || converged.clone().unwrap_err());
        self.restart_wiped();
        let again = self.converge(patience);
        checks.that(CONVERGED, again.is_ok(), || again.clone().unwrap_err());
        println!("  it converged within {:.0} s", began.elapsed().as_secs_f64());
        for broken in &self.effects.broken {
            checks.that(CONVERGED, false, || broken.clone());
        }
        self.check_all(&mut checks);
        self.check_parked(&mut checks);
        self.check_history(&mut checks);
        for touched in foreign.touched() {
            checks.that(FOREIGN, false, || touched);
        }
        checks.of.entry(FOREIGN).or_default().0 += foreign.len() as u64;
        self.check_lost_work(&mut checks);
        self.restore(&mut checks);
        self.check_log(&mut checks);
        checks.report(&PROMISES);
    }

    /// Checks everything without intervention, for a site that has converged on its own.
    pub(super) fn check_without_intervention(&self, section: &mut Section) {
        let mut checks = Checks { section, of: BTreeMap::new() };
        self.check_all(&mut checks);
        self.check_history(&mut checks);
        self.check_log(&mut checks);
        checks.report(&UNATTENDED);
    }

    fn check_log(&self, checks: &mut Checks<'_>) {
        let log = self.site.log();
        checks.that(NO_PANIC, !log.contains("panicked"), || {
            log.lines().filter(|line| line.contains("panicked")).collect::<Vec<_>>().join("\n")
        });
    }

    /// Runs every pass, and approves held plans, until nothing is left to do.
    fn converge(&self, patience: Duration) -> Result<(), String> {
        let began = Instant::now();
        let mut quiet = 0;
        loop {
            let output = self.operator.ostler(60, ["sweep", "run", "--json"]);
            let runs: Vec<Value> = serde_json::from_str(&output.stdout).unwrap_or_default();
            for run in runs.iter().filter(|run| run["outcome"] == "held") {
                self.approve(&text(&run["pass"]));
            }
            let nothing = |run: &Value, key: &str| run[key].as_array().is_none_or(Vec::is_empty);
            let idle =
                |run: &Value| run["outcome"] == "done" && nothing(run, "actions") && nothing(run, "watching");
            let active: Vec<_> = runs.iter().filter(|run| !idle(run)).collect();
            let rows = rows(self.operator, false);
            let moving = |row: &&Value| {
                let going = ["provisioning", "hibernating", "offline"];
                going.iter().any(|status| row["status"] == *status) || !row["operation"].is_null()
            };
            let moving: Vec<_> = rows.iter().filter(moving).collect();
            let calm = !runs.is_empty() && active.is_empty() && !rows.is_empty() && moving.is_empty();
            quiet = if calm { quiet + 1 } else { 0 };
            // Some actions need two snapshots.
            if quiet == 2 {
                self.record.print("nothing is left to do");
                return Ok(());
            }
            if began.elapsed() > patience {
                let whys = moving.iter().take(3).map(|row| self.why(&text(&row["name"])));
                let whys: Vec<_> = whys.collect();
                return Err(format!(
                    "after {} s, work is still in progress: {active:#?}\n{moving:#?}\n{}\n{}",
                    patience.as_secs(),
                    whys.join("\n"),
                    output.stderr
                ));
            }
            if quiet == 0 {
                std::thread::sleep(CHECK_INTERVAL);
            }
        }
    }

    /// Approves a pass's held plan, as an operator does after review.
    fn approve(&self, pass: &str) {
        let shown = self.operator.ostler(60, ["sweep", "show", pass, "--json"]);
        let shown: Value = serde_json::from_str(&shown.stdout).unwrap_or_default();
        let Some(plan) = shown["held"]["id"].as_str() else { return };
        if self.operator.ostler(60, ["sweep", "approve", pass, plan]).code == 0 {
            self.record.count(format!("held plans of {pass}, approved"));
            self.record
                .print(format!("an operator approves plan {plan} of {pass}: {}", shown["held"]["reason"]));
        }
    }

    /// Restarts workspaces without a token file that were not restarted since the wipe; a start writes the file.
    fn restart_wiped(&self) {
        for row in rows(self.operator, false) {
            let wiped = self.effects.wiped.get(&text(&row["id"]));
            let runs = ["online", "degraded"].iter().any(|status| row["status"] == *status);
            if runs && wiped.is_some_and(|incarnation| row["incarnation"].as_u64() <= Some(*incarnation)) {
                self.operator.ostler(60, ["restart", &text(&row["name"])]);
                self.record.count("restarted by an operator, because the token file was wiped");
                self.record
                    .print(format!("an operator restarts {}, because its token file was wiped", row["name"]));
            }
        }
    }

    fn why(&self, name: &str) -> String {
        self.operator.ostler(60, ["why", name]).stdout
    }

    fn containers(&self) -> Vec<Container> {
        let filter = format!("label=ostler.instance={}", self.site.instance());
        let listed = podman_output(["ps", "--all", "--no-trunc", "--format", "json", "--filter", &filter]);
        let listed: Vec<Value> = serde_json::from_str(&listed).expect("podman ps prints JSON");
        let container = |container: &Value| Container {
            id: text(&container["Id"]),
            name: text(&container["Names"][0]),
            workspace: text(&container["Labels"]["ostler.workspace"]),
            // If its conmon was killed, Podman does not detect its exit and keeps reporting it as running.
            runs: container["State"] == "running" && !has_ended(&container["Pid"]),
            pid: container["Pid"].as_i64().unwrap_or_default(),
        };
        listed.iter().map(container).collect()
    }

    fn database(&self) -> Connection {
        self.site.database(OpenFlags::SQLITE_OPEN_READ_ONLY)
    }

    /// Compares rows with containers, volumes, trash, tokens and the operators' records.
    fn check_all(&self, checks: &mut Checks<'_>) {
        let containers = self.containers();
        let live = rows(self.operator, false);
        let removed: Vec<_> =
            rows(self.operator, true).into_iter().filter(|row| row["status"] == "removed").collect();
        let trash = self.site.trash();
        let volumes = work_volumes(&self.site.instance());
        let digests = self.live_digests();
        for row in &live {
            self.check_row(checks, row, &containers, &digests);
            let id = text(&row["id"]);
            let is_loser = LOSERS.iter().any(|loser| row["name"] == *loser);
            if row["external"] != true && !is_loser {
                self.check_work(checks, WORK, &id, row, &volumes);
            }
        }
        for row in removed.iter().filter(|row| row["external"] != true) {
            self.check_removed(checks, row, &containers, &trash, &volumes);
        }
        self.check_trash(checks, &containers, &live, &trash);
        let removed: BTreeSet<_> = removed.iter().map(|row| text(&row["name"])).collect();
        self.check_answers(checks, &live, &removed);
    }

    fn check_row(
        &self,
        checks: &mut Checks<'_>,
        row: &Value,
        containers: &[Container],
        digests: &BTreeMap<String, Vec<Vec<u8>>>,
    ) {
        let id = text(&row["id"]);
        let own = text(&row["container_id"]);
        let status = Status::parse(row["status"].as_str().unwrap_or_default(), row["failure"].as_str());
        let external = row["external"] == true;
        let possible = match status {
            Some(Status::Online | Status::Degraded | Status::Paused) => true,
            Some(Status::AwaitingAgent) => external,
            Some(Status::Hibernated | Status::Failed(Failure::Parked)) => !external,
            Some(Status::Failed(Failure::StartError)) => LOSERS.iter().any(|loser| row["name"] == *loser),
            Some(
                Status::Provisioning
                | Status::Offline
                | Status::Hibernating
                | Status::Removed
                | Status::Failed(Failure::ProvisionTimeout),
            )
            | None => false,
        };
        checks.that(AT_REST, possible, || format!("{row:#}\n{}", self.why(&id)));
        if external {
            return;
        }
        // A container is ours only by label and name, because a user's copies have our labels too.
        let ours = |container: &&Container| {
            container.workspace == id && container.name.starts_with(&format!("ostler-{id}-"))
        };
        let all: Vec<_> = containers.iter().filter(ours).collect();
        let running: Vec<_> = all.iter().filter(|container| container.runs).collect();
        let names = || all.iter().map(|container| container.name.clone()).collect::<Vec<_>>().join(", ");
        let up = matches!(status, Some(Status::Online | Status::Degraded));
        if up {
            let one = running.len() == 1 && running[0].id == own;
            checks.that(ONE_RUNS, one, || {
                format!("{} run of {}: {row:#}\n{}", running.len(), names(), self.why(&id))
            });
            if one {
                let agreed = one_token(running[0], row, digests.get(&id).map_or(&[], Vec::as_slice));
                checks.that(ONE_TOKEN, agreed.is_ok(), || {
                    format!("{}: {}\n{}", row["name"], agreed.clone().unwrap_err(), self.why(&id))
                });
            }
        } else {
            checks.that(NONE_RUNS, running.is_empty(), || {
                let pids: Vec<_> = running.iter().map(|container| container.pid).collect();
                format!("{} run as {pids:?}: {row:#}\n{}", names(), self.why(&id))
            });
        }
    }

    fn check_work(
        &self,
        checks: &mut Checks<'_>,
        promise: &'static str,
        id: &str,
        row: &Value,
        volumes: &BTreeMap<String, std::path::PathBuf>,
    ) {
        let marker = self.record.markers.lock().expect("no holder of the lock panics").get(id).cloned();
        // A workspace has no marker if a daemon kill interrupted its creation.
        let Some(marker) = marker else { return };
        let found = volumes.get(id).map(|directory| fs::read_to_string(directory.join(MARKER)));
        let same = matches!(&found, Some(Ok(found)) if *found == marker);
        checks.that(promise, same, || {
            format!("the marker of {} is {found:?} instead of `{marker}`\n{}", row["name"], self.why(id))
        });
    }

    fn check_removed(
        &self,
        checks: &mut Checks<'_>,
        row: &Value,
        containers: &[Container],
        trash: &[Value],
        volumes: &BTreeMap<String, std::path::PathBuf>,
    ) {
        let id = text(&row["id"]);
        self.check_work(checks, TRASH, &id, row, volumes);
        let loose = |container: &&Container| {
            container.workspace == id
                && (container.runs || !container.name.starts_with("ostler-trash-"))
                && container.name.starts_with("ostler-")
        };
        let loose: Vec<_> = containers.iter().filter(loose).map(|container| &container.name).collect();
        checks.that(TRASH, loose.is_empty(), || {
            format!("{} is removed, but has the containers {loose:?}", row["name"])
        });
        if volumes.contains_key(&id) {
            let work = format!("ostler-{id}-work");
            let kept = trash.iter().any(|entry| holds(entry, &work) && entry["state"] == "kept");
            checks.that(TRASH, kept, || format!("no trash entry keeps {work} of {}", row["name"]));
        }
    }

    fn check_trash(
        &self,
        checks: &mut Checks<'_>,
        containers: &[Container],
        live: &[Value],
        trash: &[Value],
    ) {
        let ids: BTreeSet<_> = live.iter().map(|row| text(&row["id"])).collect();
        for entry in trash {
            checks.that(TRASH, entry["state"] == "kept", || {
                format!("a trash entry is not in its final state: {entry:#}")
            });
        }
        for container in containers.iter().filter(|container| container.name.starts_with("ostler-")) {
            let known = match container.name.strip_prefix("ostler-trash-") {
                Some(entry) => !container.runs && trash.iter().any(|known| known["id"] == entry),
                None => live.iter().any(|row| row["container_id"] == container.id.as_str()),
            };
            checks.that(KNOWN, known, || {
                format!("{} ({}) runs: {}", container.name, container.id, container.runs)
            });
        }
        let instance = self.site.instance();
        let filter = format!("label=ostler.instance={instance}");
        let volumes = podman_output(["volume", "ls", "--quiet", "--filter", &filter]);
        let sentinel = format!("ostler-{instance}");
        for volume in volumes.lines().filter(|volume| volume.starts_with("ostler-") && **volume != sentinel) {
            let of_live = ids.iter().any(|id| volume.contains(id.as_str()));
            let in_trash = trash.iter().any(|entry| holds(entry, volume));
            checks.that(KNOWN, of_live != in_trash, || {
                format!("{volume}: belongs to a live row: {of_live}, is in the trash: {in_trash}")
            });
        }
    }

    /// Compares the answers to the operators with the current state.
    fn check_answers(&self, checks: &mut Checks<'_>, live: &[Value], removed: &BTreeSet<String>) {
        for member in self.trees.iter().flat_map(|tree| &tree.members) {
            let row = live.iter().find(|row| row["name"] == member.name.as_str());
            let status = row.and_then(|row| row["status"].as_str()).unwrap_or("not there");
            let parked = row.is_some_and(|row| row["failure"] == "parked");
            let agrees = match member.known_state {
                KnownState::Unclear => {
                    self.record.count("workspaces without a clear last answer");
                    continue;
                }
                KnownState::Up if member.kind == MemberKind::External => status == "awaiting_agent",
                // It may have been parked after too many exits, which no answer to the operator reports.
                KnownState::Up => matches!(status, "online" | "degraded") || parked,
                KnownState::Hibernated => status == "hibernated",
                KnownState::Stopped(_) => status == "paused",
                KnownState::Removed => row.is_none() && removed.contains(&member.name),
            };
            if parked && member.known_state == KnownState::Up {
                self.record.count("workspaces that exited too often and are parked");
            }
            checks.that(ANSWERS, agrees, || {
                format!(
                    "{}: the last answer implies {:?}, but the status is {status}\n{}",
                    member.name,
                    member.known_state,
                    self.why(&member.name)
                )
            });
        }
    }

    fn check_parked(&self, checks: &mut Checks<'_>) {
        let live = rows(self.operator, false);
        let crasher = live.iter().find(|row| row["name"] == CRASHER);
        checks
            .that(PARKED, crasher.is_some_and(|row| row["failure"] == "parked"), || format!("{crasher:#?}"));
    }

    /// Digests of the live instance tokens, by workspace.
    fn live_digests(&self) -> BTreeMap<String, Vec<Vec<u8>>> {
        let database = self.database();
        let mut query = database
            .prepare(
                "SELECT w.id, t.digest FROM tokens t JOIN workspaces w ON w.key = t.workspace
                 WHERE t.kind = 'instance' AND t.revoked_at IS NULL",
            )
            .expect("the schema is known");
        let found = query
            .query_map([], |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, Vec<u8>>(1)?)))
            .expect("the query runs");
        let mut digests = BTreeMap::<String, Vec<Vec<u8>>>::new();
        for (id, digest) in found.map(|row| row.expect("the columns are known")) {
            let id = uuid::Uuid::from_slice(&id).expect("an id").to_string();
            digests.entry(id).or_default().push(digest);
        }
        digests
    }

    /// Checks the events: one sequence without gaps, and for each workspace allowed transitions that end in the status
    /// of its row.
    fn check_history(&self, checks: &mut Checks<'_>) {
        let database = self.database();
        let (count, first, last): (i64, i64, i64) = database
            .query_row("SELECT count(*), min(sequence), max(sequence) FROM events", [], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })
            .expect("there are events");
        checks.that(HISTORY, first == 1 && last == count, || {
            format!("{count} events are numbered {first} to {last}")
        });
        let mut query = database
            .prepare(
                "SELECT w.name, e.event_type, e.sequence FROM events e JOIN workspaces w ON w.id = e.workspace
                 ORDER BY e.sequence",
            )
            .expect("the schema is known");
        let events = query
            .query_map([], |row| {
                Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, i64>(2)?))
            })
            .expect("the query runs");
        // Keyed by name. In this campaign no name is used for two workspaces.
        let mut now = BTreeMap::<String, &'static [Status]>::new();
        for (name, kind, sequence) in events.map(|row| row.expect("the columns are known")) {
            let Some(to) = after(&kind) else { continue };
            if let Some(from) = now.insert(name.clone(), to) {
                let legal = MOVES.iter().any(|(_, target, sources)| {
                    to.contains(target) && sources.iter().any(|source| from.contains(source))
                });
                checks.that(HISTORY, legal, || {
                    format!("{name} went from {from:?} to {to:?} in event {sequence}\n{}", self.why(&name))
                });
            }
        }
        let mut query =
            database.prepare("SELECT name, status, failure FROM workspaces").expect("the schema is known");
        let rows = query
            .query_map([], |row| {
                Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, Option<String>>(2)?))
            })
            .expect("the query runs");
        for (name, status, failure) in rows.map(|row| row.expect("the columns are known")) {
            let is = Status::parse(&status, failure.as_deref());
            let known_state = now.get(&name).copied().unwrap_or_default();
            checks.that(HISTORY, is.is_some_and(|is| known_state.contains(&is)), || {
                format!("{name} is {status}, but its last event allows only {known_state:?}")
            });
        }
    }

    /// Workspaces with a lost work volume wait for an operator, and start again only on command.
    fn check_lost_work(&self, checks: &mut Checks<'_>) {
        for name in &self.effects.lost {
            let row = self.site.show(name);
            let waits =
                row["failure"] == "start_error" && text(&row["status_detail"]).contains("volume missing");
            checks.that(LOST, waits, || format!("{row:#}\n{}", self.why(name)));
            let refused = self.operator.ostler(60, ["start", name]);
            checks.that(LOST, refused.code != 0 && refused.stderr.contains("--new-volume"), || {
                format!("`ostler start {name}` did not report the lost volume: {refused:?}")
            });
            let begun = self.operator.ostler(60, ["start", name, "--new-volume"]);
            checks.that(LOST, begun.code == 0, || {
                format!("`ostler start {name} --new-volume` failed: {begun:?}")
            });
        }
    }

    /// Restores a removed workspace and checks that it works with its data.
    fn restore(&self, checks: &mut Checks<'_>) {
        let live: BTreeMap<_, _> =
            rows(self.operator, false).into_iter().map(|row| (text(&row["id"]), row)).collect();
        let up = |id: &str| live.get(id).is_some_and(|row| row["status"] == "online");
        let removed = rows(self.operator, true).into_iter().filter(|row| {
            let parent = row["parent_id"].as_str();
            row["status"] == "removed" && row["external"] != true && parent.is_some_and(up)
        });
        let mut restored = 0;
        for row in removed.take(3) {
            let (id, name) = (text(&row["id"]), text(&row["name"]));
            let undeleted = self.operator.ostler(60, ["undelete", &name]);
            let started = self.operator.ostler(60, ["start", &name]);
            checks.that(RESTORED, undeleted.code == 0 && started.code == 0, || {
                format!("{undeleted:?}\n{started:?}\n{}", self.why(&name))
            });
            self.check_work(checks, RESTORED, &id, &row, &work_volumes(&self.site.instance()));
            restored += 1;
        }
        if restored == 0 {
            // No workspace was removed in this run, so one is removed here.
            let gone = self.operator.ostler(60, ["rm", CRASHER]);
            until("it is removed", || (gone.code == 0).then_some(()));
            let undeleted = self.operator.ostler(60, ["undelete", CRASHER]);
            checks.that(RESTORED, undeleted.code == 0, || format!("{undeleted:?}"));
        }
    }
}

/// The statuses that an event can leave a workspace in; `None` for an event that changes none.
fn after(kind: &str) -> Option<&'static [Status]> {
    Some(match kind {
        "WORKSPACE_PROVISIONING" => &[Status::Provisioning],
        "WORKSPACE_ONLINE" => &[Status::Online],
        "WORKSPACE_DEGRADED" => &[Status::Degraded],
        "WORKSPACE_OFFLINE" => &[Status::Offline],
        "WORKSPACE_AWAITING_AGENT" => &[Status::AwaitingAgent],
        "WORKSPACE_PROVISION_FAILED" => {
            &[Status::Failed(Failure::StartError), Status::Failed(Failure::ProvisionTimeout)]
        }
        "WORKSPACE_PARKED" => &[Status::Failed(Failure::Parked)],
        "WORKSPACE_PAUSED" | "WORKSPACE_UNDELETED" => &[Status::Paused],
        "WORKSPACE_HIBERNATING" => &[Status::Hibernating],
        "WORKSPACE_HIBERNATED" => &[Status::Hibernated],
        "WORKSPACE_REMOVED" => &[Status::Removed],
        _ => return None,
    })
}

fn holds(entry: &Value, volume: &str) -> bool {
    entry["volumes"].as_array().is_some_and(|held| held.iter().any(|held| held == volume))
}

/// Checks that the token file, the process and the store have the same single live token.
fn one_token(container: &Container, row: &Value, live: &[Vec<u8>]) -> Result<(), String> {
    let root = format!("/proc/{}/root", container.pid);
    let file = fs::read_to_string(format!("{root}/configs/.auth_token"));
    let process = if row["runtime"] == "agent" {
        held_open(container.pid)
    } else {
        fs::read_to_string(format!("{root}/tmp/held")).ok()
    };
    let [one] = live else { return Err(format!("{} instance tokens are live", live.len())) };
    let file = match file {
        Ok(file) => file,
        Err(error) => return Err(format!("the file of process {} cannot be read: {error}", container.pid)),
    };
    if file.len() != TOKEN_CHARS {
        return Err(format!("the file holds {} characters", file.len()));
    }
    if Sha256::digest(&file)[..] != one[..] {
        return Err("the store does not accept the token in the file".into());
    }
    match process {
        Some(process) if process == file => Ok(()),
        Some(process) => Err(format!("the process holds another token, of {} characters", process.len())),
        None => Err("the process holds no token".into()),
    }
}

/// The demo agent's token: in a deleted file that its child processes hold open as descriptor 9.
fn held_open(process: i64) -> Option<String> {
    let mut family = BTreeSet::from([process]);
    let mut children: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i64>() else { continue };
        let stat =
            fs::read_to_string(Path::new("/proc").join(entry.file_name()).join("stat")).unwrap_or_default();
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok());
        children.entry(parent.unwrap_or_default()).or_default().push(pid);
    }
    let mut next = vec![process];
    while let Some(pid) = next.pop() {
        for child in children.get(&pid).into_iter().flatten() {
            if family.insert(*child) {
                next.push(*child);
            }
        }
    }
    let held = |pid: &i64| fs::read_to_string(format!("/proc/{pid}/fd/9")).ok();
    family.iter().filter_map(held).map(|held| held.trim().to_owned()).find(|held| held.len() == TOKEN_CHARS)
}
