//! A power cut: everything that has not reached the medium is lost, whatever the order of writes.
//!
//! The simulated machine consists of three nested file systems. The store writes to `disk`, ext4 on an image. That
//! image is in `cache`, ext4 on another image; its page cache acts as the write cache of a drive: it holds data until a
//! flush, and may write other data earlier, in any order. The second image, the *medium*, is in `vault`. A cut freezes
//! the vault, which completes the writes in progress and starts none, and copies the medium. The copy is mounted,
//! journals are replayed, and the store is opened.
//!
//! The copy therefore holds no more than a drive with a cache would hold after losing power. A control shows that cuts
//! can lose data: the same cuts under SQLite without flushes.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    thread,
};

use ostler::store::Store;
use rusqlite::Connection;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::{
    check_answers,
    crowd::Crowd,
    error_text,
    mounts::{Mounted, copy_sparse, make_image},
};
use crate::{Settings, report::Section};

/// Number of answers between two cuts.
const ANSWERS_BETWEEN_CUTS: std::ops::Range<u64> = 20..400;

pub(super) fn run(runtime: &Runtime, settings: &Settings, section: &mut Section) -> Result<(), String> {
    let cuts = if settings.long { 100 } else { 12 };
    cut_the_store(runtime, section, cuts)?;
    for (synchronous, cuts) in [("OFF", 2), ("NORMAL", 2)] {
        control(section, synchronous, cuts)?;
    }
    Ok(())
}

/// A machine with simulated power cuts. Fields are dropped in order: inner file systems first.
struct Machine {
    disk: Mounted,
    _cache: Mounted,
    vault: Mounted,
    ground: Mounted,
    _directory: TempDir,
}

impl Machine {
    fn new() -> Result<Self, String> {
        let directory = tempfile::tempdir().map_err(error_text)?;
        let at = |name: &str| directory.path().join(name);
        let ground = Mounted::tmpfs(&at("ground"), "900m")?;
        make_image(&at("ground").join("vault.img"), 320)?;
        let vault = Mounted::image(&at("ground").join("vault.img"), &at("vault"))?;
        make_image(&at("vault").join("medium.img"), 224)?;
        let cache = Mounted::image(&at("vault").join("medium.img"), &at("cache"))?;
        make_image(&at("cache").join("disk.img"), 128)?;
        let disk = Mounted::image(&at("cache").join("disk.img"), &at("disk"))?;
        Ok(Self { disk, _cache: cache, vault, ground, _directory: directory })
    }

    /// Copies the medium at this moment; the machine itself continues.
    fn cut(&self) -> Result<PathBuf, String> {
        let copy = self.ground.at().join("cut.img");
        let frozen = self.vault.freeze()?;
        let copied = copy_sparse(&self.vault.at().join("medium.img"), &copy).map_err(error_text);
        drop(frozen);
        copied.map(|()| copy)
    }
}

/// A machine after its power is back.
struct Revived {
    disk: Mounted,
    _medium: Mounted,
}

impl Revived {
    fn from(copy: &Path) -> Result<Self, String> {
        let parent = copy.parent().expect("the copy is in a directory");
        let medium = Mounted::image(copy, &parent.join("medium"))?;
        let disk = Mounted::image(&medium.at().join("disk.img"), &parent.join("disk"))?;
        Ok(Self { disk, _medium: medium })
    }
}

/// A pseudo-random number of a range, the same in every run.
fn pick(seed: &mut u64, range: &std::ops::Range<u64>) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    range.start + (*seed >> 33) % (range.end - range.start)
}

fn cut_the_store(runtime: &Runtime, section: &mut Section, cuts: u64) -> Result<(), String> {
    let machine = Machine::new()?;
    let data = machine.disk.at().join("data");
    let store = Store::open(&data).map_err(error_text)?;
    let crowd = runtime.block_on(Crowd::found(&store, 300)).map_err(error_text)?;
    let stop = Arc::new(AtomicBool::new(false));
    let writing = runtime.spawn({
        let (crowd, store, stop) = (crowd.clone(), store.clone(), Arc::clone(&stop));
        async move { crowd.write(&store, &stop, 1).await }
    });
    let mut seed = 7;
    let tried = (0..cuts).try_for_each(|number| {
        let enough = crowd.ledger().answered + pick(&mut seed, &ANSWERS_BETWEEN_CUTS);
        while crowd.ledger().answered < enough && !writing.is_finished() {
            thread::yield_now();
        }
        let before = crowd.ledger();
        let copy = machine.cut()?;
        let after = crowd.ledger();
        section.count("power cuts", 1);
        section.count("writes acknowledged while the medium was copied", after.answered - before.answered);
        let revived = Revived::from(&copy)?;
        let data = revived.disk.at().join("data");
        match Store::open(&data) {
            Ok(store) => {
                check_answers(section, &data, &before, &after, &format!("after power cut {number}"));
                let memory = runtime.block_on(store.memory_is_true());
                section.expect(memory == Ok(true), || {
                    format!("after power cut {number}, memory differs from the tables: {memory:?}")
                });
            }
            Err(error) => {
                section.broke(format!("after power cut {number}, the database is refused: {error}"));
            }
        }
        drop(revived);
        fs::remove_file(copy).map_err(error_text)
    });
    stop.store(true, Ordering::Relaxed);
    runtime.block_on(writing).map_err(error_text)?;
    let ledger = crowd.ledger();
    section.expect(ledger.refused() == 0, || format!("writes were refused: {:?}", ledger.refusals));
    check_answers(section, &data, &ledger, &ledger, "on the machine without power loss");
    drop(store);
    tried
}

/// The same cuts with SQLite settings under which a write is answered before it is flushed. These cuts must lose data;
/// otherwise the test proves nothing.
fn control(section: &mut Section, synchronous: &str, cuts: u64) -> Result<(), String> {
    let machine = Machine::new()?;
    let path = machine.disk.at().join("control.db");
    let sql = Connection::open(&path).map_err(error_text)?;
    sql.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; CREATE TABLE writes (number INTEGER)",
    )
    .map_err(error_text)?;
    // Checkpoints are disabled, because a checkpoint would flush answered writes even with these settings.
    sql.pragma_update(None, "wal_autocheckpoint", 0).map_err(error_text)?;
    sql.pragma_update(None, "synchronous", synchronous).map_err(error_text)?;
    let (answered, stop) = (AtomicI64::new(0), AtomicBool::new(false));
    let mut lost = 0;
    let (answered, stop) = (&answered, &stop);
    let tried = thread::scope(|threads| {
        // The writer owns the connection, so that it is closed before the machine is dropped.
        let writer = threads.spawn(move || {
            for number in 1.. {
                if stop.load(Ordering::Relaxed)
                    || sql.execute("INSERT INTO writes VALUES (?1)", [number]).is_err()
                {
                    return;
                }
                answered.store(number, Ordering::Relaxed);
            }
        });
        let mut seed = 11;
        let tried = (0..cuts).try_for_each(|_| {
            let wanted = pick(&mut seed, &ANSWERS_BETWEEN_CUTS);
            let enough = answered.load(Ordering::Relaxed) + i64::try_from(wanted).expect("a small number");
            while answered.load(Ordering::Relaxed) < enough && !writer.is_finished() {
                thread::yield_now();
            }
            let before = answered.load(Ordering::Relaxed);
            let copy = machine.cut()?;
            let revived = Revived::from(&copy)?;
            let copied = Connection::open(revived.disk.at().join("control.db")).map_err(error_text)?;
            let there: i64 = copied
                .query_row("SELECT COALESCE(max(number), 0) FROM writes", [], |row| row.get(0))
                .unwrap_or(0);
            drop(copied);
            lost += u64::try_from(before - there).unwrap_or(0);
            drop(revived);
            fs::remove_file(copy).map_err(error_text)
        });
        stop.store(true, Ordering::Relaxed);
        tried
    });
    section.count(format!("control, synchronous={synchronous}: cuts"), cuts);
    section.count(format!("control, synchronous={synchronous}: acknowledged writes lost, as expected"), lost);
    section.expect(lost > 0, || {
        format!(
            "with synchronous={synchronous} no acknowledged write was lost in {cuts} cuts: the cuts prove nothing"
        )
    });
    tried
}
