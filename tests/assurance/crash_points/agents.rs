//! Agents' requests, and what ostler does when they are missing.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::{SCENARIO, Scenario, Stage};
use crate::support::{
    engine_proxy::{Fault, Rule},
    hasty::{creation, make},
};

/// Speed of the clock, as a multiple of real time: a minute of silence passes in a second.
const PACE: u32 = 60;

/// Id and token that a stage keeps.
fn identity(stage: &Stage) -> (String, String) {
    let (id, token) = stage.kept.split_once(' ').expect("`kept` holds an id and a token");
    (id.to_owned(), token.to_owned())
}

#[expect(clippy::disallowed_methods, reason = "real processes take real time")]
fn milliseconds() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970").as_millis()
}

fn keep_identity(stage: &mut Stage) {
    let id = stage.site.show("w")["id"].as_str().expect("an id").to_owned();
    stage.kept = format!("{id} {}", stage.site.token_in_volume("w"));
}

fn heartbeat(stage: &Stage, tasks: u32, error_rate: f64) {
    let (id, token) = identity(stage);
    let heartbeat = json!({ "workspace_id": id, "active_tasks": tasks, "error_rate": error_rate });
    stage.send("/registry/heartbeat", &token, &heartbeat);
}

pub(super) const ALL: &[Scenario] = &[
    Scenario {
        name: "an external agent sends every kind of report",
        steps: &[
            "record token use",
            "record registration",
            "record heartbeat",
            "record card",
            "log activity",
        ],
        set: |stage| {
            stage.site.serve();
            stage.site.ostler(["create", "phone", "--external"]).well();
            let id = stage.site.show("phone")["id"].as_str().expect("an id").to_owned();
            let token = stage.site.ostler(["token", "issue", "phone"]).well();
            stage.kept = format!("{id} {}", token.trim());
        },
        act: |stage| {
            let (id, token) = identity(stage);
            let (me, card) = (id.as_str(), json!({ "name": "phone" }));
            for (path, body) in [
                (format!("/registry/{id}/peers"), Value::Null),
                ("/registry/register".into(), json!({ "id": me, "url": "", "agent_card": card })),
                ("/registry/heartbeat".into(), json!({ "workspace_id": me, "uptime_seconds": 1 })),
                ("/registry/update-card".into(), json!({ "workspace_id": me, "agent_card": card })),
                (
                    format!("/workspaces/{id}/activity"),
                    json!({ "activity_type": "agent_log", "summary": format!("round {}", stage.round) }),
                ),
            ] {
                stage.send(&path, &token, &body);
            }
        },
        check: |stage, point| {
            let (_, token) = identity(stage);
            assert!(stage.site.is_valid("phone", &token), "killed {point}, its token is no longer valid");
        },
        ..SCENARIO
    },
    Scenario {
        name: "an agent delegates a task, notifies its user, stores memories and polls",
        steps: &[
            "begin delegation",
            "dispatch delegation",
            "update delegation",
            "resume delegations",
            "expire delegations",
            "record notice",
            "store memory",
            "delete memory",
            "queue message",
            "record polled",
        ],
        set: |stage| {
            stage.site.serve();
            stage.site.ostler(["create", "phone", "--external", "--poll"]).well();
            let id = stage.site.show("phone")["id"].as_str().expect("an id").to_owned();
            let token = stage.site.ostler(["token", "issue", "phone"]).well();
            stage.kept = format!("{id} {}", token.trim());
        },
        prepare: |stage| {
            let (id, token) = identity(stage);
            // One of each kind that the daemon processes: a memory to delete, a waiting message, a task without a
            // result.
            let memory = json!({ "content": "tea", "scope": "LOCAL" });
            stage.send(&format!("/workspaces/{id}/memories"), &token, &memory);
            stage.send(&format!("/workspaces/{id}/a2a"), &token, &json!({ "method": "message/send" }));
            let record = json!({ "target_id": id, "task": "dig", "delegation_id": uuid::Uuid::from_u128(milliseconds()) });
            stage.send(&format!("/workspaces/{id}/delegations/record"), &token, &record);
            let database = stage.site.database(rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE);
            database
                .execute("UPDATE delegations SET created_at = 0", [])
                .expect("the delegations can be changed");
        },
        act: |stage| {
            let (id, token) = identity(stage);
            let path = |what: &str| format!("/workspaces/{id}/{what}");
            let task = json!({ "target_id": "00000000-0000-4000-8000-000000000000", "task": "dig" });
            stage.send(&path("delegations"), &token, &Value::Null);
            stage.send(&path("memories"), &token, &json!({ "content": "tea", "scope": "LOCAL" }));
            stage.send(&path("notify"), &token, &json!({ "message": "done" }));
            stage.send(&path("a2a"), &token, &json!({ "method": "message/send" }));
            stage.send(&path("activity/ack"), &token, &json!({ "acked_seq": i64::MAX }));
            let database = stage.site.database(rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY);
            let memory =
                database.query_row("SELECT id FROM memories LIMIT 1", [], |row| row.get::<_, Vec<u8>>(0));
            let memory = uuid::Uuid::from_slice(&memory.expect("a memory")).expect("an id");
            stage.ask("DELETE", &path(&format!("memories/{memory}")), &token, &Value::Null);
            stage.send(&path("delegate"), &token, &task);
        },
        check: |stage, point| {
            let database = stage.site.database(rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY);
            let open = "SELECT count(*) FROM delegations WHERE finished_at IS NULL AND sent_by_ostler = 1";
            crate::support::daemon::until(&format!("killed {point}, no task is left open"), || {
                database
                    .query_row(open, [], |row| row.get::<_, u32>(0))
                    .is_ok_and(|open| open == 0)
                    .then_some(())
            });
        },
        ..SCENARIO
    },
    Scenario {
        name: "an operator runs a command in a container",
        steps: &["record activity time"],
        set: |stage| {
            stage.site.serve();
            make(&stage.site, "w");
        },
        act: |stage| {
            stage.repeat_until_dead(|stage| {
                stage.order(&["exec", "w", "--", "true"]);
                stage.order(&["sweep", "run", "hibernate_idle"]);
            });
        },
        ..SCENARIO
    },
    Scenario {
        name: "a busy agent reports errors and makes no progress",
        steps: &["flag wedged", "charge degraded restart"],
        act: |stage| heartbeat(stage, 1, 1.0),
        ..WEDGED
    },
    Scenario {
        name: "the engine refuses the restart of an agent that makes no progress",
        steps: &["refund restart"],
        act: |stage| {
            stage.proxy.set_rules([Rule::on("GET", "/volumes/", Fault::Status(500, "injected".into()))]);
            heartbeat(stage, 1, 1.0);
        },
        mend: |stage| stage.proxy.set_rules([]),
        ..WEDGED
    },
];

/// A scenario with a faster clock, and an agent that may be restarted when it makes no progress.
const WEDGED: Scenario = Scenario {
    change: |config| {
        // The deadlines use the faster clock, so they must be longer.
        let config = config.replace("read_deadline = \"1m\"", "read_deadline = \"1h\"");
        config.replace("[engine]\n", "[engine]\nchange_deadline = \"2h\"\n")
    },
    set: |stage| {
        stage.site.set_daemon_env("ASSURANCE_PACE", Some(format!("{PACE} {}", milliseconds())));
        stage.site.serve();
        stage.site.ostler(creation("w", &["--restart-when-wedged"])).well();
    },
    prepare: keep_identity,
    then: |stage| {
        stage.site.ostler(["restart", "w"]).well();
        keep_identity(stage);
        heartbeat(stage, 0, 0.0);
    },
    ..SCENARIO
};
