//! Cost of the passes in the store, and proof that removed rows and old events do not raise it.
//!
//! One cycle is every store request of all passes, each run once, including the breaker's queries and five
//! revocations. The rows have every status, and their agents send heartbeats: most within the last half minute, some
//! are silent, some busy, half may hibernate. The contestants take turns in rounds, so that changes in machine load
//! affect them alike. A figure is the median of the rounds, with the lowest and the highest beside it. Ratios use
//! processor time, which other load affects least, and are computed within each round before taking the median.
//!
//! `cargo bench --bench sweep` prints two tables; `-- --quick` omits the million rows.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark prints its results, and panics on unexpected ones"
)]
#![allow(clippy::disallowed_methods, reason = "a benchmark measures real time")]

use std::{
    path::Path,
    time::{Duration, Instant},
};

use ostler::{
    domain::{
        ids::{InstanceId, WorkspaceId},
        liveness::{SILENT_AFTER, WEDGED_AFTER},
        time::Timestamp,
    },
    store::{FILE_NAME, Registry, StaleTokens, Store},
};
use rusqlite::{Connection, params};
use tempfile::TempDir;
use uuid::Uuid;

/// The time that all cycles use as the current time. Removed rows and old events have earlier times.
const NOW: Timestamp = Timestamp(1_700_000_000_000);
const HOUR: i64 = 3_600_000;
/// Containers in every listing.
const LISTED: usize = 1_000;
/// Measured rounds; one warm-up round precedes them.
const ROUNDS: usize = 9;
/// Tokens revoked in a cycle: the limit of one run.
const REVOKED: usize = 5;
/// Target for a hundred thousand rows.
const GOAL: Duration = Duration::from_millis(25);

/// A registry with generated rows.
struct Registered {
    title: String,
    live: u64,
    store: Store,
    runtime: tokio::runtime::Runtime,
    listed: Vec<WorkspaceId>,
    directory: TempDir,
}

/// Number of rows, and of live rows among them. Live rows are spread evenly, as they would be over time.
struct Shape {
    rows: u64,
    live: u64,
}

fn workspace(number: u64) -> WorkspaceId {
    // Real ids are random; consecutive ones would be adjacent in the index.
    let mixed = u128::from(number.wrapping_mul(0x9E37_79B9_7F4A_7C15)) << 64 | u128::from(number);
    WorkspaceId(Uuid::from_u128(mixed))
}

fn container(number: u64) -> String {
    format!("{:064x}", u128::from(number) | 1 << 100)
}

impl Registered {
    fn new(title: &str, shape: &Shape) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let instance = InstanceId(Uuid::from_u128(1));
        let registry =
            Registry { instance, generation: 0, recovering_since: None, engine_accepted_at: Some(NOW) };
        runtime.block_on(store.found_registry(registry)).unwrap();
        let live = fill(&directory.path().join(FILE_NAME), shape);
        let listed = listing(&live, shape).into_iter().map(workspace).collect();
        Self { title: title.into(), live: live.len() as u64, store, runtime, listed, directory }
    }

    /// The store's part of one cycle.
    fn cycle(&self, parts: &mut [Duration; PARTS.len()]) -> Duration {
        let older_than = Timestamp(NOW.0 - HOUR / 12);
        self.runtime.block_on(async {
            let begun = Instant::now();
            let store = &self.store;
            // Queries of `settle`, `reap_removed` and `reap_unknown`.
            for _ in 0..3 {
                timed(&mut parts[0], store.sweep_rows(self.listed.clone())).await;
            }
            for _ in 0..2 {
                timed(&mut parts[1], store.relevant_trash(self.listed.clone())).await;
            }
            timed(&mut parts[1], store.relevant_trash(Vec::new())).await;
            timed(&mut parts[1], store.trash_due(NOW, 500)).await;
            // Queries of `settle`, `check_containers` and `time_out_provisioning`.
            for _ in 0..3 {
                let starting = timed(&mut parts[9], store.provisioning_rows()).await;
                self.expect("provisioning rows", starting.len());
            }
            self.expect("hibernating rows", timed(&mut parts[9], store.hibernating_rows()).await.len());
            // Queries of `check_containers`.
            self.expect("rows that are up", timed(&mut parts[7], store.up_rows()).await.len());
            // Queries of `check_heartbeats` and `flag_wedged`.
            for quiet_for in [SILENT_AFTER, WEDGED_AFTER] {
                let quiet = timed(&mut parts[8], store.quiet_rows(NOW - quiet_for, NOW)).await;
                self.expect("silent rows", quiet.len());
            }
            // Queries of `hibernate_idle` and `restart_due`.
            self.expect("idle rows", timed(&mut parts[10], store.idle_rows(NOW)).await.len());
            self.expect("restarts due", timed(&mut parts[9], store.restarts_due(NOW)).await.rows.len());
            // Queries of `revoke_stale_tokens`.
            let candidates =
                timed(&mut parts[2], store.stale_candidates(self.listed.clone(), older_than)).await;
            assert!(candidates.len() >= REVOKED, "{}: only {} stale tokens", self.title, candidates.len());
            // The breaker's queries, once for each destructive pass.
            for pass in ["reap_removed", "reap_unknown", "revoke_stale_tokens"] {
                timed(&mut parts[3], store.held_plan(pass)).await;
                timed(&mut parts[4], store.swept_since(Timestamp(NOW.0 - HOUR))).await;
                timed(&mut parts[5], store.live_count()).await;
                timed(&mut parts[0], store.known_count(self.listed.clone())).await;
            }
            for candidate in candidates.iter().take(REVOKED) {
                let stale = StaleTokens { workspace: candidate.workspace, older_than, without_age: false };
                let revoked = store.revoke_stale_tokens(stale, "absent".into(), "revoke_stale_tokens", NOW);
                assert_eq!(timed(&mut parts[6], revoked).await.len(), 1);
            }
            begun.elapsed()
        })
    }

    /// Asserts that a query found something: the time of a query without a result would not be representative.
    fn expect(&self, what: &str, found: usize) {
        assert!(found > 0 || self.live < 1_000, "{}: there are no {what}", self.title);
    }

    /// Undoes the revocations, so that every round has the same work.
    fn reset(&self) {
        let sql = Connection::open(self.directory.path().join(FILE_NAME)).unwrap();
        sql.busy_timeout(Duration::from_secs(5)).unwrap();
        let revived =
            sql.execute("UPDATE tokens SET revoked_at = NULL WHERE revoked_at = ?1", [NOW.0]).unwrap();
        assert_eq!(revived, REVOKED);
    }
}

/// The numbers of the workspaces whose containers the engine lists: at most half of the live rows, some removed rows,
/// and some workspaces without a row. The live rows without a container have tokens to revoke.
fn listing(live: &[u64], shape: &Shape) -> Vec<u64> {
    let (live_listed, removed_listed) = (live.len().min(1_900) / 2, 20);
    let mut listed: Vec<_> =
        live.iter().step_by(live.len() / live_listed).take(live_listed).copied().collect();
    let removed = (0..shape.rows).filter(|number| live.binary_search(number).is_err());
    listed.extend(removed.take(removed_listed));
    let unknown = LISTED - listed.len();
    listed.extend((shape.rows..).take(unknown));
    listed
}

/// The parts of a cycle, in the order of the table's columns.
const PARTS: [&str; 11] =
    ["known", "trash", "stale", "held", "swept", "live", "revoke", "up", "quiet", "few", "idle"];

async fn timed<T>(into: &mut Duration, query: impl Future<Output = ostler::store::StoreResult<T>>) -> T {
    let begun = Instant::now();
    let answer = query.await.unwrap();
    *into += begun.elapsed();
    answer
}

/// Writes the rows directly to the database in one transaction; returns the numbers of the live ones.
fn fill(path: &Path, shape: &Shape) -> Vec<u64> {
    let mut sql = Connection::open(path).unwrap();
    sql.pragma_update(None, "synchronous", "OFF").unwrap();
    sql.pragma_update(None, "cache_size", -200_000).unwrap();
    let tx = sql.transaction().unwrap();
    let mut live = Vec::new();
    {
        let mut filler = Filler::new(&tx);
        for number in 0..shape.rows {
            let is_live = number * shape.live / shape.rows != (number + 1) * shape.live / shape.rows;
            filler.workspace(number, is_live.then_some(live.len() as u64));
            if is_live {
                live.push(number);
            }
        }
    }
    tx.commit().unwrap();
    sql.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    live
}

struct Filler<'t> {
    workspaces: rusqlite::Statement<'t>,
    tokens: rusqlite::Statement<'t>,
    pulse: rusqlite::Statement<'t>,
    events: rusqlite::Statement<'t>,
}

impl<'t> Filler<'t> {
    fn new(sql: &'t Connection) -> Self {
        let prepare = |text| sql.prepare(text).unwrap();
        Self {
            workspaces: prepare(
                "INSERT INTO workspaces (key, id, name, kind, runtime, tier, spec, status, status_since, incarnation,
                                         container_id, container_serial, container_spec_hash, has_work_volume,
                                         created_at, removed_at, hibernation_idle_minutes, restart_due_at)
                 VALUES (?1, ?2, ?3, 'container', 'plain', 2, ?4, ?5, ?6, 3, ?7, 3, ?8, 1, ?6, ?9, ?10, ?11)",
            ),
            tokens: prepare(
                "INSERT INTO tokens (id, workspace, kind, incarnation, digest, prefix, created_at, revoked_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, 'prefixed', ?6, ?7)",
            ),
            pulse: prepare(
                "INSERT INTO pulse (workspace, token_used_at, last_heartbeat_at, last_activity_at, active_tasks,
                                    uptime_seconds, monthly_spend_cents)
                 VALUES (?1, ?2, ?3, ?4, ?5, 86400, 1234)",
            ),
            events: prepare(
                "INSERT INTO events (event_type, workspace, payload, created_at, swept_by) VALUES (?1, ?2, '{}', ?3, ?4)",
            ),
        }
    }

    /// Inserts a removed row, or a live one with its position among the live rows.
    fn workspace(&mut self, number: u64, live: Option<u64>) {
        let (key, id, at) = (number.cast_signed() + 1, workspace(number), NOW.0 - 1000 * HOUR);
        let removed_at = live.is_none().then_some(NOW.0 - 500 * HOUR);
        let status = match live.map(|location| location % 200) {
            None => "removed",
            Some(0..20) => "hibernated",
            Some(20..30) => "paused",
            Some(30) => "offline",
            Some(31) => "provisioning",
            Some(32) => "hibernating",
            Some(33..36) => "degraded",
            Some(_) => "online",
        };
        let hibernation_candidates = live.and_then(|location| location.is_multiple_of(2).then_some(30));
        let restart_due_at = (status == "offline").then_some(NOW.0 - 1000);
        let spec = r#"{"image":"registry.example.org/team/agent:1.2.3","command":["agent","--serve"],"env":{"MODE":"work"}}"#;
        self.workspaces
            .execute(params![
                key,
                id.0.as_bytes(),
                format!("workspace-{number}"),
                spec,
                status,
                at,
                container(number),
                "0123456789abcdef",
                removed_at,
                hibernation_candidates,
                restart_due_at
            ])
            .unwrap();
        // One to three tokens: the last instance's, an older one, an api token.
        let latest = removed_at;
        self.token(number, 0, "instance", latest);
        if !number.is_multiple_of(3) {
            self.token(number, 1, "instance", Some(at));
        }
        if number % 3 > 1 {
            self.token(number, 2, "api", None);
        }
        if let Some(location) = live {
            // One workspace in fifty has been silent for an hour; a quarter of the others is busy.
            let silent = location % 50 == 49;
            let heartbeat_at = if silent { NOW.0 - HOUR } else { NOW.0 - (location % 30_000).cast_signed() };
            // Some of the idle workspaces have been idle for longer than their limit.
            let (tasks, active_at) = match location % 20 {
                1 | 5 | 9 | 13 | 17 => (2, heartbeat_at),
                10 => (0, NOW.0 - 2 * HOUR),
                _ => (0, NOW.0 - HOUR / 4),
            };
            // The last use of the token is equally old for all, so that every round has something to revoke.
            self.pulse.execute(params![key, NOW.0 - HOUR, heartbeat_at, active_at, tasks]).unwrap();
        }
        let swept = number.is_multiple_of(50).then_some("reap_unknown");
        self.events.execute(params!["WORKSPACE_REMOVED", id.0.as_bytes(), at, swept]).unwrap();
    }

    fn token(&mut self, number: u64, which: u64, kind: &str, revoked_at: Option<i64>) {
        let mut digest = [0_u8; 32];
        digest[..16].copy_from_slice(workspace(number * 3 + which).0.as_bytes());
        let incarnation = (kind == "instance").then_some(3 - which.cast_signed());
        let (id, key) =
            (Uuid::from_u128(workspace(number * 3 + which).0.as_u128() ^ 1 << 127), number.cast_signed() + 1);
        let at = NOW.0 - 900 * HOUR;
        self.tokens.execute(params![id.as_bytes(), key, kind, incarnation, digest, at, revoked_at]).unwrap();
    }
}

/// Median, lowest and highest value.
fn spread<T: PartialOrd + Copy>(values: &[T]) -> (T, T, T) {
    let mut sorted = values.to_vec();
    sorted.sort_by(|a, b| a.partial_cmp(b).unwrap());
    (sorted[sorted.len() / 2], sorted[0], sorted[sorted.len() - 1])
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// Processor time of all threads of this process; other load on the machine does not count.
fn processor() -> Duration {
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    let spent = threads.map(|thread| {
        let times = std::fs::read_to_string(thread.unwrap().path().join("schedstat")).unwrap_or_default();
        times.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0)
    });
    Duration::from_nanos(spent.sum())
}

/// Wall time and processor time of each round, by contestant.
struct Raced {
    took: Vec<Vec<Duration>>,
    spent: Vec<Vec<Duration>>,
}

/// Runs the contestants in turns; prints a row for each.
fn race(contestants: &[Registered]) -> Raced {
    let mut rounds = vec![Vec::new(); contestants.len()];
    let mut spent = vec![Vec::new(); contestants.len()];
    let mut parts = vec![Vec::new(); contestants.len()];
    for round in 0..=ROUNDS {
        for (number, contestant) in contestants.iter().enumerate() {
            let mut of_round = [Duration::ZERO; PARTS.len()];
            let before = processor();
            let took = contestant.cycle(&mut of_round);
            let spent_now = processor().saturating_sub(before);
            contestant.reset();
            if round > 0 {
                rounds[number].push(took);
                spent[number].push(spent_now);
                parts[number].push(of_round);
            }
        }
    }
    print!("{:<26} {:>6} {:>9} {:>15} {:>7}", "rows", "live", "cycle ms", "from..to", "cpu ms");
    for part in PARTS {
        print!(" {part:>8}");
    }
    println!("   (medians, ms)");
    for (number, contestant) in contestants.iter().enumerate() {
        let (median, lowest, highest) = spread(&rounds[number]);
        let range = format!("{:.2}..{:.2}", millis(lowest), millis(highest));
        let cpu = millis(spread(&spent[number]).0);
        print!(
            "{:<26} {:>6} {:>9.2} {range:>15} {cpu:>7.2}",
            contestant.title,
            contestant.live,
            millis(median)
        );
        for part in 0..PARTS.len() {
            let of_part: Vec<_> = parts[number].iter().map(|parts| parts[part]).collect();
            print!(" {:>8.2}", millis(spread(&of_part).0));
        }
        println!();
    }
    Raced { took: rounds, spent }
}

fn verdict(what: &str, reached: bool) {
    println!("{what}: {}", if reached { "reached" } else { "MISSED" });
}

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick");
    println!(
        "A cycle of all passes in the store: {LISTED} containers listed, {REVOKED} tokens revoked, {ROUNDS} rounds.\n"
    );
    let sizes: &[(u64, &str)] = if quick {
        &[(1_000, "10^3"), (100_000, "10^5")]
    } else {
        &[(1_000, "10^3"), (100_000, "10^5"), (1_000_000, "10^6")]
    };
    let contestants: Vec<_> = sizes
        .iter()
        .map(|(rows, title)| {
            Registered::new(&format!("{title}, 5 % live"), &Shape { rows: *rows, live: rows / 20 })
        })
        .collect();
    let race_of_sizes = race(&contestants);
    drop(contestants);
    let ((by_clock, ..), (processor, ..)) = (spread(&race_of_sizes.took[1]), spread(&race_of_sizes.spent[1]));
    let goal = format!(
        "\ngoal: 10^5 rows in under {} ms: {:.2} ms wall time, {:.2} ms processor time",
        GOAL.as_millis(),
        millis(by_clock),
        millis(processor)
    );
    verdict(&goal, by_clock < GOAL);

    let history = if quick { 100_000 } else { 1_000_000 };
    println!("\nThe same live rows, without and with {history} additional removed rows.\n");
    let live = 5_000;
    let contestants = [
        Registered::new("5000 live, 95 000 removed", &Shape { rows: 100_000, live }),
        Registered::new(
            &format!("5000 live, {} removed", 95_000 + history),
            &Shape { rows: 100_000 + history, live },
        ),
    ];
    let Raced { spent, .. } = race(&contestants);
    let ratios: Vec<f64> = spent[0]
        .iter()
        .zip(&spent[1])
        .map(|(without, with)| with.as_secs_f64() / without.as_secs_f64())
        .collect();
    let (ratio, lowest, highest) = spread(&ratios);
    verdict(
        &format!(
            "\ngoal: within 20 %: {ratio:.2} times the time ({lowest:.2}..{highest:.2}) with the history"
        ),
        ratio < 1.2,
    );
}
