//! A failing disk: ext4 on a loop device. Its backing file has no space left, so that writes to the device fail, or it
//! is truncated, so that reads fail.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
    sync::{Arc, atomic::AtomicBool},
};

use ostler::store::{FILE_NAME, Store};
use rustix::{
    fs::{Advice, SeekFrom, fadvise, seek},
    io::Errno,
};
use tokio::runtime::Runtime;

use super::{
    Refusals, add_refusals, check_answers,
    crowd::{Crowd, Ledger, advises},
    error_text,
    mounts::{Mounted, copy_sparse, make_image, run as run_program},
    print_refusals,
};
use crate::{Settings, report::Section};

const REFUSALS: u32 = 10;
const IMAGE_MIB: u64 = 32;

pub(super) fn run(runtime: &Runtime, settings: &Settings, section: &mut Section) -> Result<(), String> {
    // Space of the medium beyond that of an empty file system, in KiB.
    let rooms: Vec<u64> =
        if settings.long { (1..=40).map(|n| n * 300).collect() } else { vec![600, 1700, 4000, 7000] };
    let mut refusals = Refusals::new();
    for room in rooms {
        let more = refuse_writes(runtime, section, room)
            .map_err(|error| format!("a medium with {room} KiB: {error}"))?;
        add_refusals(&mut refusals, more);
    }
    print_refusals(section, "Answers to writers on a failing disk", refusals);
    lose_reads(runtime, section, if settings.long { 128 } else { 16 })
}

/// Writes to the device fail.
fn refuse_writes(runtime: &Runtime, section: &mut Section, room: u64) -> Result<Refusals, String> {
    let directory = tempfile::tempdir().map_err(error_text)?;
    let medium = Mounted::tmpfs(&directory.path().join("medium"), "64m")?;
    let image = medium.at().join("disk.img");
    make_image(&image, IMAGE_MIB)?;
    let disk = Mounted::image(&image, &directory.path().join("disk"))?;
    let data = disk.at().join("data");
    let store = Store::open(&data).map_err(error_text)?;
    let crowd = runtime.block_on(Crowd::found(&store, 700)).map_err(error_text)?;
    let used = rustix::fs::statvfs(medium.at()).map_err(error_text)?;
    let used = (used.f_blocks - used.f_bfree) * used.f_frsize / 1024;
    medium.remount(&format!("size={}k", used + room))?;

    runtime.block_on(crowd.write(&store, &Arc::new(AtomicBool::new(false)), REFUSALS));
    let ledger = crowd.ledger();
    section.count("media that failed under writers", 1);
    section.count("writes refused by a failing disk", ledger.refused());
    section.expect(ledger.refused() > 0, || "the medium never failed".into());
    let memory = runtime.block_on(store.memory_is_true());
    section.expect(memory != Ok(false), || "on a failing disk, memory differs from the tables".into());
    drop(store);
    disk.leave()?;

    // The medium works again. Every change that was answered as done has to be on it.
    medium.remount("size=128m")?;
    check_file_system(&image)?;
    let disk = Mounted::image(&image, &directory.path().join("disk"))?;
    match Store::open(&data) {
        Ok(store) => {
            check_answers(
                section,
                &data,
                &ledger,
                &ledger,
                &format!("after {room} KiB of medium were written"),
            );
            if let Err(error) = runtime.block_on(crowd.write_once(&store)) {
                section.broke(format!(
                    "after the repair of the medium, the store does not accept writes: {error}"
                ));
            }
            let ledger = crowd.ledger();
            check_answers(section, &data, &ledger, &ledger, "after the repair of the medium");
        }
        Err(error) => {
            section.broke(format!("after the repair of the medium, the database cannot be opened: {error}"));
        }
    }
    disk.leave()?;
    medium.leave()?;
    Ok(ledger.refusals)
}

/// Exit status 0 means a replayed journal, 1 a corrected error. A failed write does not explain any other status.
fn check_file_system(image: &Path) -> Result<(), String> {
    let image = image.to_str().expect("temp directories have plain names");
    match run_program("e2fsck", &["-f", "-y", image]) {
        Err(error) if !error.contains("exit status: 1)") => Err(error),
        _ => Ok(()),
    }
}

/// Reads from the device fail: its end is cut off, at several places in turn.
fn lose_reads(runtime: &Runtime, section: &mut Section, places: u64) -> Result<(), String> {
    let directory = tempfile::tempdir().map_err(error_text)?;
    let medium = Mounted::tmpfs(&directory.path().join("medium"), "128m")?;
    let (image, whole) = (medium.at().join("disk.img"), medium.at().join("whole.img"));
    make_image(&image, IMAGE_MIB)?;
    let disk = Mounted::image(&image, &directory.path().join("disk"))?;
    let data = disk.at().join("data");
    let store = Store::open(&data).map_err(error_text)?;
    let crowd = runtime.block_on(Crowd::found(&store, 4000)).map_err(error_text)?;
    let stop = Arc::new(AtomicBool::new(false));
    let writing = runtime.spawn({
        let (crowd, store, stop) = (crowd.clone(), store.clone(), Arc::clone(&stop));
        async move { crowd.write(&store, &stop, 1).await }
    });
    while crowd.ledger().answered < 4000 {
        std::thread::yield_now();
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    runtime.block_on(writing).map_err(error_text)?;
    // Copies the files as a kill leaves them, with the log.
    let killed = disk.at().join("killed");
    super::copy_database(&data, &killed).map_err(error_text)?;
    drop(store);
    disk.leave()?;
    let ledger = crowd.ledger();
    copy_sparse(&image, &whole).map_err(error_text)?;

    let (mut refused, mut opened) = (0, 0);
    for place in 0..places {
        for name in ["killed", "data"] {
            copy_sparse(&whole, &image).map_err(error_text)?;
            let disk = Mounted::image(&image, &directory.path().join("disk"))?;
            let data = disk.at().join(name);
            forget_cached(&data)?;
            let file = File::options().write(true).open(&image).map_err(error_text)?;
            file.set_len((IMAGE_MIB << 20) * place / places).map_err(error_text)?;
            if open_unreadable(runtime, section, &data, &ledger, place) {
                opened += 1;
            } else {
                refused += 1;
            }
            disk.leave()?;
            // The end of the device is restored. Then all content has to be readable again.
            restore_end(&whole, &image, (IMAGE_MIB << 20) * place / places)?;
            check_file_system(&image)?;
            let disk = Mounted::image(&image, &directory.path().join("disk"))?;
            let store = Store::open(&disk.at().join(name));
            section.expect(store.is_ok(), || {
                format!("the disk is readable again, but the database is refused: {:?}", store.as_ref().err())
            });
            drop(store);
            check_answers(
                section,
                &disk.at().join(name),
                &ledger,
                &ledger,
                "after the disk became readable again",
            );
            disk.leave()?;
        }
    }
    section.count("databases opened on a disk that is only partly readable", refused + opened);
    section.count("of them refused with a message, and complete once readable", refused);
    section.expect(refused > 0, || "no read ever failed".into());
    section.expect(opened > 0, || "no database could ever be opened".into());
    medium.leave()
}

/// Opens a database that cannot be read completely. Returns whether it opened.
fn open_unreadable(
    runtime: &Runtime,
    section: &mut Section,
    data: &Path,
    ledger: &Ledger,
    place: u64,
) -> bool {
    match Store::open(data) {
        Ok(store) => {
            // Opening has read every page, so its content must be complete.
            section.expect(runtime.block_on(store.memory_is_true()) == Ok(true), || {
                "memory differs from the tables".into()
            });
            drop(store);
            check_answers(section, data, ledger, ledger, &format!("opened with the disk cut at {place}"));
            true
        }
        Err(error) => {
            let error_text = error.to_string();
            section.expect(advises(&error_text) && !error_text.contains("restore a backup"), || {
                format!("the message does not name a failing disk: {error_text}")
            });
            false
        }
    }
}

/// Makes the next read of the database go to the device.
fn forget_cached(data: &Path) -> Result<(), String> {
    for file in [FILE_NAME, "ostler.db-wal"] {
        if let Ok(file) = File::open(data.join(file)) {
            file.sync_all().map_err(error_text)?;
            fadvise(&file, 0, None, Advice::DontNeed).map_err(error_text)?;
        }
    }
    Ok(())
}

/// Restores the end of the medium, except where data was written after it was cut off. Only reads failed there; writes
/// succeeded.
fn restore_end(whole: &Path, image: &Path, from: u64) -> Result<(), String> {
    let whole = fs::read(whole).map_err(error_text)?;
    let file = File::options().read(true).write(true).open(image).map_err(error_text)?;
    let (mut at, end) = (from, whole.len() as u64);
    while at < end {
        let written = match seek(&file, SeekFrom::Data(at)) {
            Ok(next) => next.min(end),
            Err(Errno::NXIO) => end,
            Err(error) => return Err(error_text(error)),
        };
        let index = |at: u64| usize::try_from(at).expect("an image is small");
        file.write_all_at(&whole[index(at)..index(written)], at).map_err(error_text)?;
        if written == end {
            break;
        }
        at = seek(&file, SeekFrom::Hole(written)).map_err(error_text)?;
    }
    Ok(())
}
