//! Starts of the daemon: the first start, and starts with an old, a lost or a copied database, or another instance id.

use std::{fs, path::PathBuf, process::Command};

use rusqlite::Connection;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{SCENARIO, Scenario, Stage};
use crate::support::{hasty::make, podman::has_volume};

/// Schema of the first release, as its migration creates it.
const FIRST_SCHEMA: &str = include_str!("../../../src/store/migrations/0001_keeper.sql");
/// ASCII `ostl`.
const APPLICATION_ID: i32 = 0x6f73_746c;

pub(super) const ALL: &[Scenario] = &[
    Scenario {
        name: "a registry's first start",
        steps: &[
            "lock: write the process id",
            "2nd lock: write the process id",
            "migrate: commit the migrations",
            "create registry",
            "identity: write the mirror",
            "mirror: replace the file",
            "accept: create the sentinel",
            "accept engine",
            "accept: write the mirror",
            "2nd mirror: replace the file",
            "reach: create the network",
            "store host reach",
        ],
        places_per_site: 1,
        set: |_| {},
        check: |stage, _| {
            let sentinel = format!("ostler-{}", stage.site.instance());
            assert!(has_volume(&sentinel), "the engine was not accepted: there is no {sentinel}");
            stage.site.ostler(["create", "phone", "--external"]).well();
        },
        ..SCENARIO
    },
    Scenario {
        name: "an old database is upgraded",
        steps: &["migrate: copy the file", "migrate: commit the migrations"],
        places_per_site: 1,
        set: |_| {},
        meanwhile: |stage| {
            fs::create_dir_all(stage.site.data_dir()).expect("a data directory");
            let old = Connection::open(stage.site.data_dir().join("ostler.db")).expect("a database");
            old.execute_batch(FIRST_SCHEMA).expect("the first schema is created");
            old.pragma_update(None, "application_id", APPLICATION_ID).expect("the application id is set");
            old.pragma_update(None, "user_version", 1).expect("the schema version is set");
            let sql = "INSERT INTO registry (only_row, instance, generation) VALUES (1, randomblob(16), 7)";
            old.execute(sql, []).expect("the identity is inserted");
            stage.kept = instance_in(&old);
        },
        check: |stage, point| {
            let uuid: uuid::Uuid = stage.site.instance().parse().expect("an id");
            assert_eq!(
                uuid.simple().to_string(),
                stage.kept,
                "killed {point}, the registry has another identity"
            );
            let copy = Connection::open(stage.site.data_dir().join("ostler.backup-v1.db")).expect("a copy");
            let version: u32 =
                copy.pragma_query_value(None, "user_version", |row| row.get(0)).expect("a version");
            assert_eq!(version, 1, "killed {point}, the copy is not of the old schema");
            assert_eq!(instance_in(&copy), stage.kept, "killed {point}, the copy is incomplete");
        },
        ..SCENARIO
    },
    Scenario {
        name: "a database is restored from an older copy, and unknown workspaces are adopted",
        steps: &["begin recovery", "take over token", "end recovery"],
        set: |stage| {
            stage.site.serve();
            make(&stage.site, "elder");
        },
        prepare: |stage| {
            stage.copy = Some(stage.site.copy_database());
            stage.site.ostler(["restart", "elder"]).well();
            make(&stage.site, &stage.named("younger"));
        },
        meanwhile: |stage| {
            let copy = stage.copy.take().expect("a copy was made");
            stage.site.put_back(&copy);
        },
        act: |stage| stage.repeat(&["adopt", "--all"]),
        then: |stage| drop(stage.order(&["adopt", "--all"])),
        check: |stage, point| {
            let doctor = stage.site.json(["doctor"]).to_string();
            assert!(!doctor.contains("recovering"), "killed {point}, the recovery does not end: {doctor}");
            for name in ["elder".to_owned(), stage.named("younger")] {
                let row = stage.site.show(&name);
                assert_eq!(row["status"], "online", "killed {point}, {name} is not up: {row:#}");
            }
            stage.purge(&stage.named("younger"));
        },
        ..SCENARIO
    },
    Scenario {
        name: "a log is checkpointed, after a kill and at a clean stop",
        steps: &["log: checkpoint into the database", "2nd log: checkpoint into the database"],
        prepare: |stage| {
            stage.site.ostler(["create", &stage.named("phone"), "--external"]).well();
            // After a kill, the changes are in the log.
            stage.site.kill();
        },
        act: |stage| {
            stage.site.ostler(["create", &stage.named("later"), "--external"]).well();
            let pid = Pid::from_raw(i32::try_from(stage.site.pid()).expect("a pid")).expect("a pid");
            kill_process(pid, Signal::TERM).expect("the daemon is signalled");
        },
        check: |stage, point| {
            let shown = stage.order(&["show", &stage.named("phone")]);
            assert_eq!(shown.code, 0, "killed {point}, the content of the log is lost: {shown:?}");
            if point.contains("2nd") {
                let shown = stage.order(&["show", &stage.named("later")]);
                assert_eq!(shown.code, 0, "killed {point}, an acknowledged change is lost: {shown:?}");
            }
        },
        ..SCENARIO
    },
    Scenario {
        name: "a database is moved away while it is open",
        steps: &["store: save the open database"],
        prepare: |stage| drop(stage.site.ostler(["create", &stage.named("phone"), "--external"]).well()),
        act: |stage| {
            fs::rename(stage.site.data_dir().join("ostler.db"), moved_away(stage)).expect("it is moved away");
            stage.repeat(&["create", &stage.named("refused"), "--external"]);
        },
        // Follows the advice in the log: puts the saved copy in the place of the database, and removes the log that is
        // there. If there is no copy, moves the original database back.
        mend: |stage| {
            let own = stage.site.data_dir().join("ostler.db");
            let saved = saved_copy(stage);
            stage.kept = String::from(if saved.is_some() { "saved" } else { "moved back" });
            let Some(saved) = saved else {
                return fs::rename(moved_away(stage), own).expect("it is moved back");
            };
            for log in ["ostler.db-wal", "ostler.db-shm"] {
                let _absent = fs::remove_file(stage.site.data_dir().join(log));
            }
            fs::rename(saved, own).expect("the copy is put there");
        },
        check: |stage, point| {
            let wanted = if point.starts_with("after") { "saved" } else { "moved back" };
            assert_eq!(stage.kept, wanted, "killed {point}");
            let shown = stage.order(&["show", &stage.named("phone")]);
            assert_eq!(shown.code, 0, "killed {point}, the content of the open database is lost: {shown:?}");
            let shown = stage.order(&["show", &stage.named("refused")]);
            assert_eq!(shown.code, 3, "killed {point}, a refused change is present: {shown:?}");
        },
        ..SCENARIO
    },
    Scenario {
        name: "a database is restored from an older copy, and a newer container is adopted",
        steps: &["adopt container"],
        places_per_site: 1,
        set: |stage| {
            stage.site.serve();
            make(&stage.site, "elder");
            stage.copy = Some(stage.site.copy_database());
            stage.site.ostler(["recreate", "elder"]).well();
            stage.site.until_status("elder", "online");
            let container = stage.site.show("elder")["container_id"].as_str().map(str::to_owned);
            stage.kept = container.expect("it has a container");
        },
        meanwhile: |stage| {
            let copy = stage.copy.take().expect("a copy was made");
            stage.site.put_back(&copy);
        },
        act: |stage| stage.repeat(&["adopt", "--all"]),
        then: |stage| drop(stage.order(&["adopt", "--all"])),
        check: |stage, point| {
            let doctor = stage.site.json(["doctor"]).to_string();
            assert!(!doctor.contains("recovering"), "killed {point}, the recovery does not end: {doctor}");
            let row = stage.site.show("elder");
            assert_eq!(row["status"], "online", "killed {point}: {row:#}");
            assert_eq!(
                row["container_id"],
                stage.kept.as_str(),
                "killed {point}, the workspace has another container"
            );
        },
        ..SCENARIO
    },
    Scenario {
        name: "a data directory that was copied is accepted",
        steps: &["identity: accept a copy"],
        set: |stage| {
            stage.site.serve();
            make(&stage.site, "moved");
        },
        meanwhile: |stage| {
            let data = stage.site.data_dir();
            let old = data.with_extension("old");
            fs::rename(&data, &old).expect("it is moved away");
            let copied = Command::new("cp").arg("-a").arg(&old).arg(&data).status();
            assert!(copied.expect("cp runs").success());
            fs::remove_dir_all(&old).expect("the original is deleted");
        },
        instead: Some(|stage, point| stage.command_dies(point, &["doctor", "--accept-copy"])),
        mend: |stage| {
            stage.order(&["doctor", "--accept-copy"]);
        },
        check: |stage, point| {
            let row = stage.site.show("moved");
            assert_eq!(row["status"], "online", "killed {point}: {row:#}");
        },
        ..SCENARIO
    },
    Scenario {
        name: "an empty registry takes over another identity",
        steps: &["become instance", "identity: become another instance"],
        places_per_site: 1,
        prepare: |stage| {
            let own: uuid::Uuid = stage.site.instance().parse().expect("an id");
            stage.kept = uuid::Uuid::from_u128(own.as_u128() ^ 1).to_string();
        },
        act: |stage| {
            let other = stage.kept.clone();
            stage.repeat(&["adopt", "--instance", &other]);
        },
        check: |stage, point| {
            // Before the transaction, the registry has its old identity, and the command must succeed when it is
            // repeated. After the transaction it has the new one.
            let own = stage.site.instance();
            if point.starts_with("before become") {
                assert_ne!(own, stage.kept, "the identity changed before the transaction was committed");
                stage.site.ostler(["adopt", "--instance", &stage.kept]).well();
                stage.site.stop();
                stage.site.serve();
            }
            assert_eq!(stage.site.instance(), stage.kept, "killed {point}");
            let listed: Value = stage.site.json(["ls"]);
            assert_eq!(listed, serde_json::json!([]), "the registry has rows");
        },
        ..SCENARIO
    },
];

/// Where the operator moves the open database to.
fn moved_away(stage: &Stage) -> PathBuf {
    stage.site.directory().join("moved-away.db")
}

/// The copy that the daemon saved. An empty file is a copy that was never written.
fn saved_copy(stage: &Stage) -> Option<PathBuf> {
    let files = fs::read_dir(stage.site.data_dir()).expect("the data directory can be read");
    let mut files = files.filter_map(|file| Some(file.ok()?.path()));
    files.find(|path| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        name.starts_with("ostler.rescued-") && fs::metadata(path).is_ok_and(|metadata| metadata.len() > 0)
    })
}

fn instance_in(sql: &Connection) -> String {
    let query = "SELECT lower(hex(instance)) FROM registry";
    sql.query_row(query, [], |row| row.get(0)).expect("the registry has an identity")
}
