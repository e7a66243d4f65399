//! The allowance that limits the events which an agent can cause.

use rusqlite::params;

use crate::{
    domain::{bounds, ids::WorkspaceId, time::Timestamp},
    store::{Member, StoreResult, lane::Tx},
    testing::mutation::{Mutation, is},
};

/// Takes one event from the allowance of a workspace's agent; `false` if the allowance is used up.
///
/// An agent can repeat some actions without limit (recover, send another card, send unusable fields). The allowance
/// permits a burst of events for them, and then one event every few minutes, so that the history stays readable. The
/// row always has the latest state.
pub(super) fn may_cause_event(
    tx: &mut Tx<'_>,
    (id, member): (WorkspaceId, &Member),
    at: Timestamp,
) -> StoreResult<bool> {
    if is(Mutation::ReportEveryFlip) {
        return Ok(true);
    }
    let held = member.last_report.events_full_at.map(|at| at.0);
    let Some(next) = bounds::next_agent_event(held, at.0) else { return Ok(false) };
    tx.sql
        .prepare_cached(
            "INSERT INTO reports (workspace, events_full_at) VALUES (?1, ?2)
             ON CONFLICT (workspace) DO UPDATE SET events_full_at = ?2",
        )?
        .execute(params![member.key, next])?;
    tx.touch(id);
    Ok(true)
}
