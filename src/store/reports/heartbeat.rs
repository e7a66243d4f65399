//! Heartbeats.
//!
//! They are thousands of times more frequent than any other change. So in the usual case a heartbeat is one UPDATE of one
//! narrow row, in a transaction that also serves other waiting callers. Text fields (task, error, metadata) have their own
//! table and are written only when they change; the previous values are kept in memory.

use std::sync::Arc;

use rusqlite::params;
use serde_json::{Value, json};

use super::{
    ReportResult, allowance::may_cause_event, move_by, refused::note_refused, token_use::note_api_use,
};
use crate::{
    domain::{
        event::EventKind,
        heartbeat::{self, Field, Heartbeat, Standing},
        status::{Cause, Status},
        time::Timestamp,
        token::TokenKind,
    },
    store::{
        LastReport, Store, StoreResult, TokenOwner,
        lane::{Known, Tx},
        roster::idle_timeout_seconds,
    },
    testing::mutation::{Mutation, is},
};

impl Store {
    /// Stores a heartbeat (wire protocol, §4); one statement in the usual case.
    ///
    /// # Errors
    /// When the store cannot answer. Nothing was written then, and the sender must get an error.
    pub async fn record_heartbeat(
        &self,
        token_owner: TokenOwner,
        heartbeat: Heartbeat,
        at: Timestamp,
    ) -> StoreResult<ReportResult> {
        self.lanes
            .write("record heartbeat", move |tx| {
                let id = token_owner.workspace;
                let Some(Known { member, holds }) = tx.known(id, &token_owner.digest, at)? else {
                    return Ok(ReportResult::Gone);
                };
                if !holds && !is(Mutation::AcceptAnyIncarnation) {
                    return Ok(ReportResult::Unauthorized);
                }
                let before = &member.last_report;
                let moves = heartbeat::moves(
                    Standing {
                        status: member.status,
                        kind: member.kind,
                        token: token_owner.kind,
                        manages_status: heartbeat
                            .metadata
                            .as_ref()
                            .map_or(before.manages_status, |new| new.manages_status),
                    },
                    &heartbeat,
                );
                let heartbeat = leaving_unknown(heartbeat, before);
                let same_task = *before.current_task == *heartbeat.current_task;
                let active = heartbeat.active_tasks > 0 || !same_task;
                let counts_as_use = token_owner.kind == TokenKind::Instance;
                tx.sql.prepare_cached(HEARTBEAT)?.execute(params![
                    member.key,
                    at,
                    counts_as_use,
                    active,
                    if heartbeat.is_partial() || heartbeat.unknown.contains(Field::ErrorRate) {
                        -1.0
                    } else {
                        heartbeat.error_rate
                    },
                    heartbeat.active_tasks,
                    heartbeat.uptime_seconds,
                    heartbeat.monthly_spend_cents
                ])?;
                note_api_use(tx, &token_owner, at)?;
                let last_report = write_texts(tx, member.key, before, &heartbeat, at, counts_as_use)?;
                tx.pass(
                    at,
                    EventKind::Heartbeat,
                    id,
                    || json!({ "active_tasks": heartbeat.active_tasks, "uptime_seconds": heartbeat.uptime_seconds }),
                );
                if !same_task || before.active_tasks != heartbeat.active_tasks {
                    tx.pass(
                        at,
                        EventKind::TaskUpdated,
                        id,
                        || json!({ "current_task": heartbeat.current_task, "active_tasks": heartbeat.active_tasks }),
                    );
                }
                let changed = last_report.refused != before.refused && !heartbeat.refused.is_empty();
                let refused = changed.then_some(last_report.refused);
                tx.set_last_report(id, last_report);
                // An agent that recovers too often stays degraded until its event allowance permits another recovery.
                // Otherwise an error rate near the limit could change the status, and add an event to the history, with
                // every heartbeat.
                let recovers = member.status == Status::Degraded && moves.contains(&Cause::HeartbeatReceived);
                if !moves.is_empty() && (!recovers || may_cause_event(tx, (id, &member), at)?) {
                    let degraded = degraded(&heartbeat);
                    move_by(tx, &token_owner, &member, &moves, &json!({}), degraded.as_ref(), at)?;
                }
                note_refused(tx, (id, &member), refused, "heartbeat", at)?;
                Ok(ReportResult::Noted)
            })
            .await
    }
}

/// The only statement of a usual heartbeat. None of the changed columns has an index.
const HEARTBEAT: &str = "UPDATE pulse SET last_heartbeat_at = ?2,
       token_used_at = CASE WHEN ?3 THEN ?2 ELSE token_used_at END,
       last_activity_at = CASE WHEN ?4 THEN ?2 ELSE last_activity_at END,
       error_rate = CASE WHEN ?5 >= 0 THEN ?5 ELSE error_rate END, active_tasks = ?6,
       uptime_seconds = CASE WHEN ?7 > 0 THEN ?7 ELSE uptime_seconds END,
       monthly_spend_cents = CASE WHEN ?8 > 0 THEN ?8 ELSE monthly_spend_cents END,
       wedged_since = NULL
     WHERE workspace = ?1";

/// Replaces the unknown fields of a heartbeat by the stored values.
fn leaving_unknown(heartbeat: Heartbeat, before: &LastReport) -> Heartbeat {
    let unknown = heartbeat.unknown;
    if unknown.is_empty() {
        return heartbeat;
    }
    let text = |field, sent: String, before: &Arc<str>| {
        if unknown.contains(field) { before.to_string() } else { sent }
    };
    Heartbeat {
        active_tasks: if unknown.contains(Field::ActiveTasks) {
            before.active_tasks
        } else {
            heartbeat.active_tasks
        },
        current_task: text(Field::CurrentTask, heartbeat.current_task, &before.current_task),
        sample_error: text(Field::SampleError, heartbeat.sample_error, &before.sample_error),
        runtime_state: text(Field::RuntimeState, heartbeat.runtime_state, &before.runtime_state),
        ..heartbeat
    }
}

fn kept(old: &Arc<str>, new: &str) -> Arc<str> {
    if **old == *new { Arc::clone(old) } else { Arc::from(new) }
}

/// Writes the text fields of a heartbeat if they differ from the stored ones; returns the new last report.
fn write_texts(
    tx: &Tx<'_>,
    key: i64,
    before: &LastReport,
    heartbeat: &Heartbeat,
    at: Timestamp,
    counts_as_use: bool,
) -> StoreResult<LastReport> {
    // A partial heartbeat has no information about errors and health, so the stored values stay.
    let partial = heartbeat.is_partial();
    let sample_error = if partial { &*before.sample_error } else { &*heartbeat.sample_error };
    let quiet = partial && heartbeat.runtime_state.is_empty();
    let runtime_state = if quiet { &*before.runtime_state } else { &*heartbeat.runtime_state };
    let last_report = LastReport {
        active_tasks: heartbeat.active_tasks,
        current_task: kept(&before.current_task, &heartbeat.current_task),
        sample_error: kept(&before.sample_error, sample_error),
        runtime_state: kept(&before.runtime_state, runtime_state),
        metadata: match &heartbeat.metadata {
            Some(new) if before.metadata.as_deref() != Some(&*new.json) => Some(Arc::from(&*new.json)),
            Some(_) | None => before.metadata.clone(),
        },
        manages_status: heartbeat.metadata.as_ref().map_or(before.manages_status, |new| new.manages_status),
        idle_timeout_seconds: match &heartbeat.metadata {
            Some(new) if before.metadata.as_deref() != Some(&*new.json) => idle_timeout_seconds(&new.json),
            Some(_) | None => before.idle_timeout_seconds,
        },
        refused: before.refused.after_heartbeat(heartbeat.refused),
        events_full_at: before.events_full_at,
        heartbeat_at: Some(at),
        token_used_at: if counts_as_use { Some(at) } else { before.token_used_at },
    };
    let same = last_report.current_task == before.current_task
        && last_report.sample_error == before.sample_error
        && last_report.runtime_state == before.runtime_state
        && last_report.metadata == before.metadata
        && last_report.refused == before.refused;
    if !same {
        tx.sql
            .prepare_cached(
                "INSERT INTO reports (workspace, current_task, sample_error, runtime_state, runtime_metadata, refused)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                 ON CONFLICT (workspace) DO UPDATE SET current_task = ?2, sample_error = ?3, runtime_state = ?4,
                   runtime_metadata = ?5, refused = ?6",
            )?
            .execute(params![
                key,
                &*last_report.current_task,
                &*last_report.sample_error,
                &*last_report.runtime_state,
                last_report.metadata.as_deref(),
                last_report.refused.to_string()
            ])?;
    }
    Ok(last_report)
}

/// Returns the status detail and the event's payload if a heartbeat makes its workspace degraded.
fn degraded(heartbeat: &Heartbeat) -> Option<(String, Value)> {
    let payload = json!({ "sample_error": heartbeat.sample_error });
    if heartbeat.runtime_state == heartbeat::WEDGED {
        let mut payload = payload;
        payload["runtime_state"] = json!(heartbeat.runtime_state);
        return Some(("its agent reports that it is wedged".into(), payload));
    }
    (heartbeat.error_rate >= heartbeat::DEGRADED_ERROR_RATE).then(|| {
        let mut payload = payload;
        payload["error_rate"] = json!(heartbeat.error_rate);
        (format!("its agent reports an error rate of {:.0} %", heartbeat.error_rate * 100.0), payload)
    })
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, sync::Arc};

    use futures_util::FutureExt;
    use rusqlite::trace::{TraceEvent, TraceEventCodes};
    use uuid::Uuid;

    use super::*;
    use crate::{
        domain::{
            heartbeat::Metadata,
            ids::{InstanceId, TokenId, WorkspaceId},
            spec::WorkspaceSpec,
            token::TokenDigest,
            workspace::{Delivery, Kind},
        },
        runtime::tasks::AtOnce,
        store::{BeginStart, Disk, NewWorkspace, Registry, TokenIssue, roster::TokenSubject},
    };

    const NOW: Timestamp = Timestamp(1_700_000_000_000);

    const DIGEST: TokenDigest = TokenDigest([1; 32]);

    thread_local! {
        static STATEMENTS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    }

    fn record(event: TraceEvent<'_>) {
        if let TraceEvent::Stmt(statement, _) = event {
            STATEMENTS.with_borrow_mut(|seen| seen.push(statement.sql().into_owned()));
        }
    }

    fn at_once<T>(answer: impl Future<Output = StoreResult<T>>) -> T {
        answer.now_or_never().expect("the store answers without waiting").expect("the statement succeeds")
    }

    /// Creates a store with one container workspace, and records every statement from then on.
    fn recorded() -> Store {
        let disk = Disk::in_memory().unwrap();
        disk.writer.lock().unwrap().sql().trace_v2(TraceEventCodes::SQLITE_TRACE_STMT, Some(record));
        let store = Store::staged(&disk, Arc::new(AtOnce));
        let id = WorkspaceId(Uuid::from_u128(1));
        at_once(store.found_registry(Registry {
            instance: InstanceId(Uuid::from_u128(1)),
            generation: 0,
            recovering_since: None,
            engine_accepted_at: None,
        }));
        let new = NewWorkspace {
            id,
            name: "alpha".parse().unwrap(),
            kind: Kind::Container,
            delivery: Delivery::Push,
            spec: WorkspaceSpec { runtime: "plain".into(), ..WorkspaceSpec::default() },
            token: None,
        };
        at_once(store.create_workspace(new, NOW));
        let token = TokenIssue { id: TokenId(Uuid::from_u128(1)), digest: DIGEST, prefix: "prefix".into() };
        let begin = BeginStart {
            workspace: id,
            cause: Cause::Restart,
            container: format!("{:064x}", 1).try_into().unwrap(),
            spec_hash: String::new(),
            token,
            decided_on: None,
            operation: None,
            replaces: None,
            degraded: None,
            at: NOW,
        };
        at_once(store.begin_start(begin)).unwrap();
        store
    }

    fn heartbeat(uptime_seconds: i64, current_task: &str) -> Heartbeat {
        let metadata = Metadata { json: r#"{"capabilities":{}}"#.into(), manages_status: false };
        Heartbeat {
            uptime_seconds,
            current_task: current_task.into(),
            active_tasks: 1,
            metadata: Some(metadata),
            ..Heartbeat::default()
        }
    }

    /// Returns the statements of a heartbeat, without those that begin and end transactions and savepoints.
    fn statements_of(store: &Store, heartbeat: Heartbeat) -> Vec<String> {
        let Some(TokenSubject::Workspace(token_owner)) = store.token_subject(&DIGEST, NOW) else {
            panic!("no such token")
        };
        STATEMENTS.take();
        assert_eq!(at_once(store.record_heartbeat(token_owner, heartbeat, NOW)), ReportResult::Noted);
        let around = ["BEGIN", "SAVEPOINT", "RELEASE", "COMMIT"];
        STATEMENTS
            .take()
            .into_iter()
            .filter(|text| !around.iter().any(|begin| text.starts_with(begin)))
            .collect()
    }

    #[test]
    fn routine_heartbeat_is_one_update_statement() {
        let store = recorded();
        let first = statements_of(&store, heartbeat(1, "sorting"));
        assert!(first.len() > 1, "the first heartbeat did not set the status: {first:?}");
        for uptime in 2..5 {
            assert_eq!(
                statements_of(&store, heartbeat(uptime, "sorting")),
                [HEARTBEAT],
                "a heartbeat without a change"
            );
        }
        let partial = Heartbeat { current_task: "sorting".into(), active_tasks: 2, ..Heartbeat::default() };
        assert_eq!(statements_of(&store, partial), [HEARTBEAT], "a heartbeat with another number of tasks");
    }

    #[test]
    fn heartbeat_texts_are_written_only_when_changed() {
        let store = recorded();
        statements_of(&store, heartbeat(1, "sorting"));
        let changed = statements_of(&store, heartbeat(2, "writing"));
        assert_eq!(changed.len(), 2, "{changed:?}");
        assert!(changed[1].starts_with("INSERT INTO reports"), "{changed:?}");
        assert_eq!(statements_of(&store, heartbeat(3, "writing")), [HEARTBEAT]);
    }

    #[test]
    fn pulse_table_has_no_index() {
        let disk = Disk::in_memory().unwrap();
        let writer = disk.writer.lock().unwrap();
        let indexes: u32 = writer
            .sql()
            .query_row("SELECT count(*) FROM pragma_index_list('pulse')", [], |row| row.get(0))
            .unwrap();
        assert_eq!(indexes, 0, "an index on a column that each heartbeat writes costs an extra page");
    }
}
