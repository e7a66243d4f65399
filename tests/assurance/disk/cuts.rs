//! Damaged files: a log truncated at every byte, a log with one flipped bit, a truncated database.
//!
//! The database either opens in exactly the state after the last complete transaction, or is refused with a message and
//! left unchanged. It never opens with a mixture of two states, and never as an empty registry in place of one with
//! data.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use ostler::{
    registry::identity,
    runtime::{clock::SystemClock, entropy::SystemEntropy},
    store::{FILE_NAME, Mirror, Store},
};
use rusqlite::Connection;
use tokio::runtime::Runtime;

use super::{
    FILES, bytes_of,
    crowd::{Crowd, advises},
    error_text,
    mounts::Mounted,
};
use crate::{Settings, report::Section, support::tables::Tables};

/// Size of a log's header, and of each frame, in bytes.
const HEADER: usize = 32;
const FRAME: usize = 24 + 4096;

pub(super) fn run(runtime: &Runtime, settings: &Settings, section: &mut Section) -> Result<(), String> {
    let directory = tempfile::tempdir().map_err(error_text)?;
    let memory = Mounted::tmpfs(&directory.path().join("memory"), "400m")?;
    let location = memory.at();
    // A short log with heartbeats is cut at every byte. A longer log with every kind of transaction is cut around every
    // frame, and at regular distances.
    let short = Origin::grown(runtime, &location.join("short"), &["heartbeat"; 3])?;
    let grown =
        Origin::grown(runtime, &location.join("grown"), &["heartbeat", "token", "creation"].repeat(3))?;
    for origin in [&short, &grown] {
        let commits = origin.states.len() - 1;
        section.expect(origin.commits_in(origin.log.len()) == commits, || {
            "the log does not hold the expected commits".into()
        });
        section.count("committed transactions in the logs that were cut", commits as u64);
    }
    section.count("bytes of the log that was cut at every byte", short.log.len() as u64);
    let step = if settings.long { 1 } else { 509 };
    let around = |at: &usize| at.is_multiple_of(step) || at.saturating_sub(HEADER - 1) % FRAME < 3;
    for (what, origin, cuts) in [
        ("short logs cut at every byte", &short, (0..=short.log.len()).collect::<Vec<_>>()),
        (
            "longer logs cut around every frame and in between",
            &grown,
            (0..=grown.log.len()).filter(around).collect(),
        ),
    ] {
        let cut = |at: &usize| Damage {
            what: format!("the log truncated at byte {at}"),
            database: origin.database.clone(),
            log: Some(origin.log[..*at].to_vec()),
            state: origin.commits_in(*at),
            may_refuse: false,
        };
        try_all(section, location, what, &cuts, &cut, &origin.states);
    }

    let step = if settings.long { 7 } else { 199 };
    let flipped: Vec<usize> = (0..grown.log.len()).step_by(step).collect();
    let flip = |at: &usize| {
        let mut log = grown.log.clone();
        log[*at] ^= 1 << (at % 8);
        Damage {
            what: format!("a bit flipped at byte {at} of the log"),
            database: grown.database.clone(),
            log: Some(log),
            state: grown.commits_in(*at),
            may_refuse: true,
        }
    };
    try_all(section, location, "logs with a flipped bit", &flipped, &flip, &grown.states);

    // The truncated database: with its log, and without, as after a clean shutdown.
    let (whole, last) = (&grown.checkpointed, &grown.states[grown.states.len() - 1..]);
    let step = if settings.long { 64 } else { 2039 };
    for (with_log, bytes) in [(true, &grown.database), (false, whole)] {
        let mut lengths: Vec<usize> =
            (0..bytes.len()).step_by(step).chain((0..bytes.len()).step_by(4096)).collect();
        lengths.sort_unstable();
        lengths.dedup();
        // The store cannot distinguish an empty file without a log from a new registry; only the mirror shows the
        // loss.
        lengths.retain(|length| *length > 0 || with_log);
        let shorten = |length: &usize| Damage {
            what: format!("the database truncated to {length} bytes, with its log: {with_log}"),
            database: bytes[..*length].to_vec(),
            log: with_log.then(|| grown.log.clone()),
            state: 0,
            may_refuse: true,
        };
        try_all(section, location, "truncated databases", &lengths, &shorten, last);
    }
    lose_all_but_the_mirror(runtime, section, location, &grown)?;
    cut_new_registry(runtime, section, location)?;
    memory.leave()
}

/// A database with its log, and its content after each transaction.
struct Origin {
    database: Vec<u8>,
    log: Vec<u8>,
    /// The database after a clean shutdown, without a log.
    checkpointed: Vec<u8>,
    mirror: Vec<u8>,
    states: Vec<Tables>,
}

impl Origin {
    fn grown(runtime: &Runtime, data: &Path, changes: &[&str]) -> Result<Self, String> {
        let store = Store::open(data).map_err(error_text)?;
        let mirror = Mirror::Directory(data.to_owned());
        let crowd = runtime.block_on(Crowd::found(&store, 50)).map_err(error_text)?;
        runtime.block_on(crowd.write_once(&store))?;
        runtime
            .block_on(identity::establish(&store, &mirror, data, &SystemClock::start(), &SystemEntropy))
            .map_err(error_text)?;
        tidy(store, data)?;
        // From here on everything is in the log.
        let store = Store::open(data).map_err(error_text)?;
        let side = Connection::open(data.join(FILE_NAME)).map_err(error_text)?;
        let mut states = vec![Tables::read(&side).map_err(error_text)?];
        for (number, change) in changes.iter().enumerate() {
            runtime.block_on(async {
                match *change {
                    "token" => drop(crowd.issue(&store, number).await),
                    "creation" => drop(crowd.create(&store).await),
                    _ => crowd.heartbeat(&store, number % 2).await,
                }
            });
            states.push(Tables::read(&side).map_err(error_text)?);
        }
        let [database, log] = FILES.map(|file| fs::read(data.join(file)));
        let (database, log) = (database.map_err(error_text)?, log.map_err(error_text)?);
        drop(side);
        tidy(store, data)?;
        let checkpointed = fs::read(data.join(FILE_NAME)).map_err(error_text)?;
        let mirror = fs::read(data.join(ostler::store::MIRROR_FILE_NAME)).map_err(error_text)?;
        Ok(Self { database, log, checkpointed, mirror, states })
    }

    /// Number of complete transactions in the first bytes of the log. The last frame of each transaction holds the size
    /// of the database after it; all other frames hold zero there. The first transaction is not counted: it writes the
    /// mark of the log and changes no row.
    fn commits_in(&self, bytes: usize) -> usize {
        commits(&self.log).take_while(|end| *end <= bytes).count().saturating_sub(1)
    }
}

/// End offset of each transaction in a log.
fn commits(log: &[u8]) -> impl Iterator<Item = usize> {
    (HEADER..)
        .step_by(FRAME)
        .take_while(|at| at + FRAME <= log.len() && log[at + 8..at + 16] == log[16..24])
        .filter(|at| log[at + 4..at + 8] != [0; 4])
        .map(|at| at + FRAME)
}

fn close(store: Store, data: &Path) {
    drop(store);
    while super::mounts::open_files_below(data) > 0 {
        thread::yield_now();
    }
}

/// Closes a store and checkpoints its log. Closing alone is not enough: the last connection to close may be read-only,
/// and such a connection makes no checkpoint.
fn tidy(store: Store, data: &Path) -> Result<(), String> {
    close(store, data);
    let sql = Connection::open(data.join(FILE_NAME)).map_err(error_text)?;
    sql.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).map_err(error_text)
}

/// Damaged files, and the allowed results.
struct Damage {
    what: String,
    database: Vec<u8>,
    log: Option<Vec<u8>>,
    /// Index of the state that the database must have, if it can be opened.
    state: usize,
    may_refuse: bool,
}

#[derive(Default)]
struct Outcome {
    tried: u64,
    refused: u64,
    wrong: Vec<String>,
}

/// Opens a store with each damage of `all`, on all cores in parallel, and checks the results.
fn try_all<T: Sync>(
    section: &mut Section,
    location: &Path,
    what: &str,
    all: &[T],
    damage: &(impl Fn(&T) -> Damage + Sync),
    states: &[Tables],
) {
    let next = AtomicUsize::new(0);
    let cores = thread::available_parallelism().map_or(2, usize::from);
    let outcomes: Vec<Outcome> = thread::scope(|threads| {
        let workers: Vec<_> = (0..cores)
            .map(|core| {
                let next = &next;
                threads.spawn(move || {
                    let mut outcome = Outcome::default();
                    while let Some(one) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let data = location.join(format!("{core}-{}", outcome.tried));
                        try_one(&mut outcome, &data, &damage(one), states);
                    }
                    outcome
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().expect("the worker does not panic")).collect()
    });
    let (mut tried, mut refused) = (0, 0);
    for outcome in outcomes {
        tried += outcome.tried;
        refused += outcome.refused;
        // A few examples are enough for the report.
        outcome.wrong.into_iter().take(5).for_each(|wrong| section.broke(wrong));
    }
    section.count(what, tried);
    section.count(format!("{what}: refused with a message, and unchanged"), refused);
    section.expect(tried == all.len() as u64, || format!("{what}: only {tried} were tried"));
}

fn try_one(outcome: &mut Outcome, data: &PathBuf, damage: &Damage, states: &[Tables]) {
    outcome.tried += 1;
    write_files(data, damage);
    let before = bytes_of(data);
    let what = &damage.what;
    match Store::open(data) {
        Ok(store) => {
            let found = Connection::open(data.join(FILE_NAME)).and_then(|sql| Tables::read(&sql));
            match found {
                Ok(found) if found == states[damage.state] => {}
                Ok(found) => {
                    let is = states.iter().position(|state| *state == found);
                    outcome
                        .wrong
                        .push(format!("{what}: the content is state {is:?} instead of {}", damage.state));
                }
                Err(error) => outcome.wrong.push(format!("{what}: opened, but not readable: {error}")),
            }
            drop(store);
        }
        Err(error) => {
            outcome.refused += 1;
            let error_text = error.to_string();
            if !damage.may_refuse {
                outcome.wrong.push(format!("{what}: refused, although a crash can leave this: {error_text}"));
            }
            if !advises(&error_text) && !error_text.contains("restore a backup") {
                outcome.wrong.push(format!("{what}: a refusal without advice: {error_text}"));
            }
            if bytes_of(data) != before {
                outcome.wrong.push(format!("{what}: refused, but written to"));
            }
        }
    }
    // The store's threads may still be deleting their log.
    while fs::remove_dir_all(data).is_err() && data.exists() {
        thread::yield_now();
    }
}

fn write_files(data: &Path, damage: &Damage) {
    fs::create_dir_all(data).expect("there is free space");
    fs::write(data.join(FILES[0]), &damage.database).expect("there is free space");
    if let Some(log) = &damage.log {
        fs::write(data.join(FILES[1]), log).expect("there is free space");
    }
}

/// A registry with all files emptied except the mirror. The store takes it for a new registry; the daemon has to detect
/// that the registry was lost.
fn lose_all_but_the_mirror(
    runtime: &Runtime,
    section: &mut Section,
    location: &Path,
    grown: &Origin,
) -> Result<(), String> {
    for database in [Some(Vec::new()), None] {
        let data = location.join("emptied");
        fs::create_dir_all(&data).map_err(error_text)?;
        if let Some(bytes) = database {
            fs::write(data.join(FILE_NAME), bytes).map_err(error_text)?;
        }
        put_mirror(&data, &grown.mirror)?;
        section.count("registries with only their mirror left", 1);
        expect_recovering(runtime, section, &data, "an emptied database beside its mirror")?;
        fs::remove_dir_all(&data).map_err(error_text)?;
    }
    Ok(())
}

/// Writes the mirror with the location of this directory. Otherwise the daemon would refuse it as a copy.
fn put_mirror(data: &Path, bytes: &[u8]) -> Result<(), String> {
    let record: ostler::store::MirrorRecord = serde_json::from_slice(bytes).map_err(error_text)?;
    let mirror = Mirror::Directory(data.to_owned());
    let location = mirror.location().map_err(error_text)?;
    mirror.write(&record.placed(location)).map_err(error_text)
}

fn expect_recovering(
    runtime: &Runtime,
    section: &mut Section,
    data: &Path,
    what: &str,
) -> Result<(), String> {
    let store = Store::open(data).map_err(error_text)?;
    let mirror = Mirror::Directory(data.to_owned());
    let clock = SystemClock::start();
    let registry = runtime
        .block_on(identity::establish(&store, &mirror, data, &clock, &SystemEntropy))
        .map_err(error_text)?;
    let known = mirror.read().map_err(error_text)?.map(|record| record.instance);
    section.expect(registry.recovering_since.is_some() && known == Some(registry.instance), || {
        format!("{what}: the registry does not detect its loss, and would reap all unknown containers")
    });
    close(store, data);
    Ok(())
}

/// A registry so new that everything, including its tables, is in the log. An opened database may have no tables yet;
/// if it lost them, the daemon has to detect that from the mirror.
fn cut_new_registry(runtime: &Runtime, section: &mut Section, location: &Path) -> Result<(), String> {
    let fresh = location.join("new");
    let store = Store::open(&fresh).map_err(error_text)?;
    let mirror = Mirror::Directory(fresh.clone());
    let clock = SystemClock::start();
    runtime
        .block_on(identity::establish(&store, &mirror, &fresh, &clock, &SystemEntropy))
        .map_err(error_text)?;
    let side = Connection::open(fresh.join(FILE_NAME)).map_err(error_text)?;
    let founded = Tables::read(&side).map_err(error_text)?;
    let [database, log] = FILES.map(|file| fs::read(fresh.join(file)));
    let (database, log) = (database.map_err(error_text)?, log.map_err(error_text)?);
    let mirror = fs::read(fresh.join(ostler::store::MIRROR_FILE_NAME)).map_err(error_text)?;
    let ends: Vec<usize> = commits(&log).collect();
    let frames = (32..=log.len()).step_by(24 + 4096);
    for at in frames.flat_map(|frame| [frame - 1, frame, frame + 1]).filter(|at| *at <= log.len()) {
        let data = location.join("new-cut");
        let damage = Damage {
            what: format!("the log of a new registry truncated at byte {at}"),
            database: database.clone(),
            log: Some(log[..at].to_vec()),
            state: 0,
            may_refuse: false,
        };
        write_files(&data, &damage);
        put_mirror(&data, &mirror)?;
        section.count("logs of a new registry cut around every frame", 1);
        if ends.last().is_some_and(|end| at >= *end) {
            let store = Store::open(&data).map_err(error_text)?;
            let found = Tables::read(&Connection::open(data.join(FILE_NAME)).map_err(error_text)?)
                .map_err(error_text)?;
            section.expect(found == founded, || format!("{}: the content differs", damage.what));
            close(store, &data);
        } else {
            expect_recovering(runtime, section, &data, &damage.what)?;
        }
        fs::remove_dir_all(&data).map_err(error_text)?;
    }
    drop(side);
    close(store, &fresh);
    Ok(())
}
