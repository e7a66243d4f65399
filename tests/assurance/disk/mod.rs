//! Failures below SQLite: full disks, failing disks, truncated files, lost power.
//!
//! Every part uses the same checks (`crowd`): a write that was answered as done is present afterwards, a refused write
//! is not, and an unreadable database is refused with a message and never replaced with an empty one.

pub(crate) mod crowd;
mod cuts;
mod errors;
mod full;
pub(crate) mod mounts;
mod power;

use std::path::Path;

use rusqlite::Connection;
use tokio::runtime::Runtime;

use crate::{Settings, report::Section};
use crowd::Ledger;
use ostler::store::FILE_NAME;

/// Runs every part; a failing part does not affect the others.
pub(crate) fn run(settings: &Settings, section: &mut Section) {
    if let Err(error) = mounts::can_mount() {
        section.broke(format!(
            "this campaign cannot mount a file system. Run it as root on a machine with loop devices. {error}"
        ));
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("threads can be started");
    let parts: [(&str, Part); 4] = [
        ("full disk", full::run),
        ("failing disk", errors::run),
        ("cut files", cuts::run),
        ("power cut", power::run),
    ];
    for (name, part) in parts {
        let began = std::time::Instant::now();
        if let Err(error) = part(&runtime, settings, section) {
            section.broke(format!("{name}: {error}"));
        }
        println!("  {name}: {:.1} s", began.elapsed().as_secs_f64());
    }
}

type Part = fn(&Runtime, &Settings, &mut Section) -> Result<(), String>;

/// Text of an error that prevented a part from being tried.
fn error_text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Compares a data directory's database with the answers.
fn check_answers(section: &mut Section, data: &Path, before: &Ledger, after: &Ledger, when: &str) {
    match Connection::open(data.join(FILE_NAME)) {
        Ok(sql) => {
            for wrong in crowd::wrongs(&sql, before, after) {
                section.broke(format!("{when}: {wrong}"));
            }
        }
        Err(error) => section.broke(format!("{when}: {error}")),
    }
    section.count("acknowledged writes checked afterwards", before.answered);
    for strange in &after.strange {
        section.broke(format!("{when}: {strange}"));
    }
}

/// Each refusal's text, and how often it occurred.
type Refusals = std::collections::BTreeMap<String, u64>;

fn add_refusals(all: &mut Refusals, more: Refusals) {
    for (text, times) in more {
        *all.entry(text).or_default() += times;
    }
}

fn print_refusals(section: &mut Section, title: &str, refusals: Refusals) {
    let rows = refusals.into_iter().map(|(text, times)| [text, times.to_string()]);
    section.table(title, ["answer", "times"], rows);
}

/// Files of a database that remain after a kill. The shared-memory file holds no content; it is rebuilt.
const FILES: [&str; 2] = [FILE_NAME, "ostler.db-wal"];

/// Copies a database with its log.
fn copy_database(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for file in FILES {
        if from.join(file).exists() {
            std::fs::copy(from.join(file), to.join(file))?;
        }
    }
    Ok(())
}

/// The bytes of a database and of its log.
fn bytes_of(data: &Path) -> Vec<Option<Vec<u8>>> {
    FILES.iter().map(|file| std::fs::read(data.join(file)).ok()).collect()
}
