//! A full disk: a small file system in memory, and writers that continue until nothing fits.

use std::{
    fs,
    path::Path,
    sync::{Arc, atomic::AtomicBool},
};

use ostler::store::Store;
use tokio::runtime::Runtime;

use super::{
    FILES, Refusals, add_refusals, bytes_of, check_answers, copy_database,
    crowd::{Crowd, advises_space},
    error_text,
    mounts::{Mounted, fill},
    print_refusals,
};
use crate::{Settings, report::Section};

/// A disk counts as full when the tasks that create rows have been refused this many times.
const REFUSALS: u32 = 25;

pub(super) fn run(runtime: &Runtime, settings: &Settings, section: &mut Section) -> Result<(), String> {
    let sizes: Vec<u32> =
        if settings.long { (5..=60).map(|n| n * 200).collect() } else { vec![1000, 2048, 3300, 9000] };
    let mut refusals = Refusals::new();
    for size in sizes {
        let more =
            fill_up(runtime, section, size).map_err(|error| format!("a disk of {size} KiB: {error}"))?;
        add_refusals(&mut refusals, more);
        section.count("disks filled up", 1);
    }
    print_refusals(section, "Answers to writers on a full disk", refusals);
    Ok(())
}

fn fill_up(runtime: &Runtime, section: &mut Section, kib: u32) -> Result<Refusals, String> {
    let directory = tempfile::tempdir().map_err(error_text)?;
    let disk = Mounted::tmpfs(&directory.path().join("disk"), &format!("{kib}k"))?;
    let data = disk.at().join("data");
    let store = Store::open(&data).map_err(error_text)?;
    let crowd = runtime.block_on(Crowd::found(&store, 700)).map_err(error_text)?;
    runtime.block_on(crowd.write(&store, &Arc::new(AtomicBool::new(false)), REFUSALS));
    let full = crowd.ledger();
    section.count("writes refused by a full disk", full.refused());
    section.expect(full.refused() > 0 && full.answered > 0, || {
        format!("{kib} KiB: no write was refused, or none was acknowledged")
    });
    for refusal in full.refusals.keys().filter(|refusal| !advises_space(refusal)) {
        section
            .broke(format!("{kib} KiB: a refusal on a full disk does not advise to free space: {refusal}"));
    }
    let memory = runtime.block_on(store.memory_is_true());
    section
        .expect(memory == Ok(true), || format!("on a full disk, memory differs from the tables: {memory:?}"));
    check_answers(section, &data, &full, &full, &format!("{kib} KiB, full, still open"));

    // Copies the files as `kill -9` leaves them.
    let killed = directory.path().join("killed");
    copy_database(&data, &killed).map_err(error_text)?;
    reopen_full(section, &killed, directory.path())?;
    let reopened = Store::open(&killed).map_err(error_text)?;
    check_answers(
        section,
        &killed,
        &full,
        &full,
        &format!("{kib} KiB, killed while full, opened with free space"),
    );
    section.expect(runtime.block_on(reopened.memory_is_true()) == Ok(true), || {
        "after a kill, memory differs from the tables".into()
    });
    drop(reopened);

    // The same store gets free space again.
    disk.remount(&format!("size={}k", kib * 2 + 4000))?;
    if let Err(error) = runtime.block_on(crowd.write_once(&store)) {
        section.broke(format!("{kib} KiB: with free space again, the store does not accept writes: {error}"));
    }
    let freed = crowd.ledger();
    check_answers(section, &data, &freed, &freed, &format!("{kib} KiB, with free space again"));

    // The disk is filled again and the store is closed. Files that the store cannot clean up have to stay unchanged.
    let ballast = fill(disk.at()).map_err(error_text)?;
    drop(store);
    open_on_full(section, &data, "closed while full");
    fs::remove_file(ballast).map_err(error_text)?;
    let store = Store::open(&data).map_err(error_text)?;
    check_answers(
        section,
        &data,
        &freed,
        &freed,
        &format!("{kib} KiB, closed and opened while full, then with free space"),
    );
    if let Err(error) = runtime.block_on(crowd.write_once(&store)) {
        section.broke(format!("{kib} KiB: opened again, it does not accept writes: {error}"));
    }
    drop(store);
    disk.leave()?;
    Ok(full.refusals)
}

/// Opens the files of a killed daemon on a disk that has space for them and a few more pages.
fn reopen_full(section: &mut Section, killed: &Path, directory: &Path) -> Result<(), String> {
    let length =
        |file: &&str| fs::metadata(killed.join(file)).map_or(0, |metadata| metadata.len().div_ceil(4096));
    let pages: u64 = FILES.iter().map(length).sum();
    for spare in 0..12 {
        let disk = Mounted::tmpfs(&directory.join("exact"), &format!("{}k", (pages + spare) * 4))?;
        let data = disk.at().join("data");
        copy_database(killed, &data).map_err(error_text)?;
        open_on_full(section, &data, &format!("killed while full, {spare} pages free"));
        disk.leave()?;
    }
    Ok(())
}

/// Opens a store without free space. It opens, or is refused with a message that names the disk; neither loses data.
fn open_on_full(section: &mut Section, data: &Path, when: &str) {
    let before = bytes_of(data);
    section.count("stores opened while full", 1);
    match Store::open(data) {
        Ok(store) => drop(store),
        Err(error) => {
            section.count("of them refused, with a message", 1);
            let error_text = error.to_string();
            section.expect(advises_space(&error_text) && !error_text.contains("restore a backup"), || {
                format!(
                    "{when}: an intact database on a full disk is refused with the wrong advice: {error_text}"
                )
            });
            section.expect(bytes_of(data) == before, || format!("{when}: refused, but written to"));
        }
    }
}
