//! Test of the query plan of every statement in the store.
//!
//! A registry keeps rows of removed workspaces for a long time. A statement that runs on a timer must not become slower
//! as these rows accumulate, but SQLite scans a whole table without a warning. Therefore the test records every
//! statement that the store's methods execute, and checks its query plan. It compares the labels in the sources with
//! those recorded, and fails if it does not call a method.

mod calls;

use std::{
    cell::RefCell,
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use rusqlite::{
    Connection, StatementStatus,
    trace::{TraceEvent, TraceEventCodes},
};

use self::calls::{drive_agents, drive_history, drive_sweeps, drive_tokens, drive_trash, drive_workspaces};
use crate::{
    runtime::tasks::Stage,
    store::{Disk, Store, connection::apply_pragmas, migrate, row},
};

/// Tables and indexes that may be scanned, each with the reason why it does not grow with history.
const MAY_SCAN: &[(&str, &str)] = &[
    ("registry", "one row"),
    ("held_plans", "one row for each pass"),
    ("admin_tokens", "a few, issued by operators"),
    ("above", "the chain up to a root"),
    ("a", "the chain up to a root"),
    ("p", "live rows only"),
    ("w USING INDEX workspaces_falling_asleep", "hibernating rows only"),
    ("w USING INDEX workspaces_may_sleep", "live rows that may hibernate only"),
    ("w USING INDEX workspaces_to_purge", "removed rows with an unfinished purge only"),
    ("below", "the tree being removed"),
    ("b", "the tree being removed"),
    ("l VIRTUAL TABLE INDEX", "the ids that were passed in"),
    ("rarray VIRTUAL TABLE INDEX", "the ids that were passed in"),
    ("workspaces USING COVERING INDEX workspaces_live", "live rows only"),
    ("w USING COVERING INDEX workspaces_live", "live rows only"),
    ("w USING INDEX workspaces_live", "live rows only"),
    ("w USING INDEX workspaces_may_sleep", "live rows only"),
    ("w USING INDEX workspaces_provisioning", "rows being provisioned only"),
    ("workspaces USING COVERING INDEX workspaces_name", "existence check only"),
    ("w USING COVERING INDEX workspaces_holding", "live rows only"),
    ("trash USING INDEX trash_open", "entries in progress only"),
    ("trash USING COVERING INDEX trash_keep_until", "existence check only"),
    ("trash", "complete listing of the trash, which is emptied regularly"),
    ("trash USING INDEX trash_keep_until", "ordered by expiry, with a limit"),
    ("events", "ordered by key, with a limit"),
    ("operations", "a bounded number, ordered by key, with a limit"),
    ("operations USING INDEX operations_open", "open ones only"),
    ("delegations USING INDEX delegations_open", "open ones only"),
    ("d USING INDEX delegations_open", "open ones only"),
    ("m USING INDEX memories_global", "global memories, ordered by key, with a limit"),
];

/// Statements that run only at a user's request and that list removed rows intentionally.
const MAY_LIST: &[&str] = &[
    "WHERE TRUE ORDER BY w.created_at, w.key",
    "WHERE w.status = 'removed' ORDER BY w.created_at, w.key",
    "SELECT DISTINCT w.name",
];

thread_local! {
    static STATEMENTS: RefCell<BTreeSet<String>> = const { RefCell::new(BTreeSet::new()) };
}

fn record(event: TraceEvent<'_>) {
    if let TraceEvent::Stmt(statement, _) = event {
        STATEMENTS.with_borrow_mut(|seen| seen.insert(statement.sql().into_owned()));
    }
}

/// Stage that runs every job at once and records its label.
#[derive(Default)]
struct Recorder(Mutex<BTreeSet<&'static str>>);

impl Stage for Recorder {
    fn submit(&self, label: &'static str, effect: Box<dyn FnOnce() + Send>) {
        self.0.lock().unwrap().insert(label);
        effect();
    }
}

/// Returns the labels of all statements in the store's sources.
fn labels() -> BTreeSet<&'static str> {
    let sources = [
        include_str!("../activity/history.rs"),
        include_str!("../activity/mailbox.rs"),
        include_str!("../activity/mod.rs"),
        include_str!("../activity/read.rs"),
        include_str!("../admins.rs"),
        include_str!("../agents.rs"),
        include_str!("../delegations.rs"),
        include_str!("../events.rs"),
        include_str!("../held_plans.rs"),
        include_str!("../lifecycle.rs"),
        include_str!("../members.rs"),
        include_str!("../memories.rs"),
        include_str!("../operations/accept.rs"),
        include_str!("../operations/read.rs"),
        include_str!("../operations/work.rs"),
        include_str!("../registry.rs"),
        include_str!("../reports/allowance.rs"),
        include_str!("../reports/card.rs"),
        include_str!("../reports/heartbeat.rs"),
        include_str!("../reports/mod.rs"),
        include_str!("../reports/refused.rs"),
        include_str!("../reports/registration.rs"),
        include_str!("../reports/token_use.rs"),
        include_str!("../sweeps.rs"),
        include_str!("../tokens.rs"),
        include_str!("../trash/claim.rs"),
        include_str!("../trash/delete.rs"),
        include_str!("../trash/mod.rs"),
        include_str!("../trash/read.rs"),
        include_str!("../trash/restore.rs"),
        include_str!("../workspaces/adopt.rs"),
        include_str!("../workspaces/create.rs"),
        include_str!("../workspaces/patch.rs"),
        include_str!("../workspaces/read.rs"),
        include_str!("../workspaces/remove.rs"),
        include_str!("../workspaces/start.rs"),
        include_str!("../workspaces/status.rs"),
        include_str!("../workspaces/undelete.rs"),
    ];
    let after = |call: &'static str| sources.into_iter().flat_map(move |text| text.split(call).skip(1));
    after(".read(\"").chain(after(".write(\"")).map(|rest| rest.split('"').next().unwrap()).collect()
}

/// Returns all lines of a statement's plan. They include SQLite's foreign key checks.
fn plan(sql: &Connection, statement: &str) -> Vec<String> {
    let mut query = sql.prepare(&format!("EXPLAIN QUERY PLAN {statement}")).unwrap();
    let lines = query.raw_query().mapped(|row| row.get::<_, String>("detail"));
    lines.map(Result::unwrap).collect()
}

fn may_scan(line: &str) -> bool {
    let Some(what) = line.strip_prefix("SCAN ") else { return true };
    what == "CONSTANT ROW"
        || MAY_SCAN.iter().any(|(allowed, _)| what == *allowed || virtual_table(what, allowed))
}

fn virtual_table(what: &str, allowed: &str) -> bool {
    allowed.ends_with("VIRTUAL TABLE INDEX") && what.starts_with(allowed)
}

/// Returns a migrated database in memory, and the statements of all methods, recorded on a second database.
fn recorded() -> (Connection, Vec<String>) {
    let sql = Connection::open_in_memory().unwrap();
    apply_pragmas(&sql).unwrap();
    migrate::prepare(&sql, None).unwrap();
    let disk = Disk::in_memory().unwrap();
    disk.writer.lock().unwrap().sql().trace_v2(TraceEventCodes::SQLITE_TRACE_STMT, Some(record));
    let recorder = Arc::new(Recorder::default());
    let store = Store::staged(&disk, Arc::clone(&recorder) as Arc<dyn Stage>);
    drive_workspaces(&store);
    drive_tokens(&store);
    drive_agents(&store);
    drive_sweeps(&store);
    drive_trash(&store);
    drive_history(&store);
    let driven = recorder.0.lock().unwrap();
    let forgotten: Vec<_> = labels().difference(&driven).copied().collect();
    assert!(forgotten.is_empty(), "store methods not called by this test, add them: {forgotten:?}");
    let statements = STATEMENTS.with_borrow_mut(std::mem::take);
    let kinds = ["SELECT", "INSERT", "UPDATE", "DELETE", "WITH"];
    (sql, statements.into_iter().filter(|text| kinds.iter().any(|kind| text.starts_with(kind))).collect())
}

#[test]
fn no_statement_reads_a_whole_table() {
    let (sql, statements) = recorded();
    assert!(statements.len() > 50, "only {} statements were recorded", statements.len());
    let mut scans = Vec::new();
    for statement in &statements {
        if MAY_LIST.iter().any(|listing| statement.contains(listing)) {
            continue;
        }
        let plan = plan(&sql, statement);
        if plan.iter().any(|line| !may_scan(line)) {
            scans.push(format!("{statement}\n    {}", plan.join("\n    ")));
        }
    }
    assert!(scans.is_empty(), "statements that scan a table:\n{}", scans.join("\n"));
}

#[test]
fn statement_is_not_replanned_for_its_bound_values() {
    let (sql, statements) = recorded();
    let mut planned_again = Vec::new();
    for text in &statements {
        let mut statement = sql.prepare(text).unwrap();
        for number in 1..=statement.parameter_count() {
            if text.contains(&format!("rarray(?{number})")) {
                statement.raw_bind_parameter(number, row::texts(&["1"])).unwrap();
            } else {
                statement.raw_bind_parameter(number, 1).unwrap();
            }
        }
        // Ignore the result, even an error: the test only needs the statement's counter.
        let _ = statement.raw_query().next();
        if statement.get_status(StatementStatus::RePrepare) > 0 {
            planned_again.push(text.as_str());
        }
    }
    assert!(
        planned_again.is_empty(),
        "statements that are planned at every execution:\n{}",
        planned_again.join("\n")
    );
}

/// Live rows are scattered among removed ones, so that reading a live row costs reading a page. The query would become
/// slower as removed rows accumulate.
#[test]
fn stale_token_query_reads_only_indexes() {
    let (sql, statements) = recorded();
    let stale = statements.iter().find(|text| text.contains("INDEXED BY tokens_live_instance")).unwrap();
    let plan = plan(&sql, stale);
    for index in ["workspaces_holding", "tokens_live_instance"] {
        let covering = format!("USING COVERING INDEX {index}");
        assert!(plan.iter().any(|line| line.contains(&covering)), "not covered by {index}: {plan:#?}");
    }
}

#[test]
fn live_row_queries_of_passes_use_a_covering_index() {
    let (sql, statements) = recorded();
    let reading = statements.iter().filter(|text| text.contains("INDEXED BY workspaces_holding"));
    let plans: Vec<_> = reading.map(|text| plan(&sql, text)).collect();
    assert_eq!(plans.len(), 3, "expected the queries for stale tokens, known rows and up rows: {plans:#?}");
    for plan in plans {
        let covered = plan.iter().any(|line| line.contains("w USING COVERING INDEX workspaces_holding"));
        assert!(covered, "a column is missing in the index: {plan:#?}");
        // With `status=?` SQLite would search seven times for each id, once per status.
        assert!(!plan.iter().any(|line| line.contains("status=?")), "{plan:#?}");
    }
}

#[test]
fn query_plan_check_detects_a_missing_index() {
    let (sql, statements) = recorded();
    sql.execute_batch("DROP INDEX tokens_of_workspace; DROP INDEX workspaces_parent").unwrap();
    let forget = statements.iter().find(|text| text.starts_with("DELETE FROM workspaces")).unwrap();
    let scans: Vec<_> = plan(&sql, forget).into_iter().filter(|line| !may_scan(line)).collect();
    assert!(!scans.is_empty(), "the plan does not show the foreign key checks of {forget}");
}
