//! Rules about operations: at most one at a time for a workspace, none forgotten, no result before its work is done.

use ostler::domain::{
    event::Event,
    ids::WorkspaceId,
    operation::{Command, Operation, OperationId, OperationState},
    status::Status,
    workspace::Workspace,
};

use super::{
    Witness, containers_of,
    rules::{Broken, Rule},
};
use crate::simulation::installation::{Installation, now_or_panic};

impl Witness {
    /// Checks the operations. Called after a change of the tables, with its events.
    pub(super) fn operations_hold(
        &mut self,
        site: &Installation,
        events: &[Event],
        rows: &[Workspace],
    ) -> Result<(), Broken> {
        let of_operations = || events.iter().filter(|event| event.event_type.starts_with("OPERATION_"));
        if of_operations().next().is_none() {
            return Ok(());
        }
        let open = now_or_panic(site.reader.open_operations()).expect("the store answers");
        self.note_starts(&open);
        // The first check finds the events of the time before it.
        if self.checks == 1 {
            return Ok(());
        }
        let runs = |operation: &&Operation| operation.state == OperationState::Running;
        for running in open.iter().filter(runs) {
            self.coverage.count(Rule::OneOperation, 1);
            let other = |other: &&Operation| other.workspace == running.workspace && other.id != running.id;
            if let Some(other) = open.iter().filter(runs).find(other) {
                let how =
                    format!("operations {} and {} of {} run", running.id, other.id, running.workspace_name);
                return Err(Rule::OneOperation.broken(how));
            }
        }
        for event in of_operations().filter(|event| event.event_type == "OPERATION_ENDED") {
            let id = event.payload["operation"].as_i64().map(OperationId).expect("it names its operation");
            let ended = now_or_panic(site.reader.operation(id)).expect("the store answers");
            if let Some(ended) = ended {
                self.cancelled_begins_nothing(&ended)?;
                self.done_stop_stopped(site, &ended, rows)?;
            }
        }
        Ok(())
    }

    /// Records for which workspaces an operator's start is open. Such a start may end a rest also after its caller has
    /// stopped waiting, and after a restart of the daemon.
    fn note_starts(&mut self, open: &[Operation]) {
        let starts: Vec<_> =
            open.iter().filter(|one| one.command.starts()).map(|one| one.workspace).collect();
        let ended = std::mem::replace(&mut self.open_starts, starts);
        self.starts_seen
            .extend(ended.into_iter().chain(self.open_starts.clone()).map(|id| (id, self.checks)));
    }

    /// Whether an operator's start of one of these workspaces was open since that check.
    pub(crate) fn start_was_open(&self, line: &[WorkspaceId], since: usize) -> bool {
        line.iter().any(|id| {
            self.open_starts.contains(id) || self.starts_seen.get(id).is_some_and(|check| *check >= since)
        })
    }

    fn cancelled_begins_nothing(&mut self, ended: &Operation) -> Result<(), Broken> {
        if ended.state != OperationState::Cancelled && !ended.cancel_requested {
            return Ok(());
        }
        self.coverage.count(Rule::CancelledBeginsNothing, 1);
        match ended.incarnation {
            None => Ok(()),
            Some(begun) => {
                let how = format!(
                    "operation {} of {} was cancelled, and began {begun:?}",
                    ended.id, ended.workspace_name
                );
                Err(Rule::CancelledBeginsNothing.broken(how))
            }
        }
    }

    /// When a stop is reported done, no container of its workspaces runs.
    fn done_stop_stopped(
        &mut self,
        site: &Installation,
        ended: &Operation,
        rows: &[Workspace],
    ) -> Result<(), Broken> {
        let (OperationState::Done, Command::Stop { targets }) = (ended.state, &ended.command) else {
            return Ok(());
        };
        let state = site.world.state();
        for row in rows.iter().filter(|row| targets.contains(&row.id) && row.status == Status::Paused) {
            if self.late_starts || self.started_by_hand.contains(&row.id) {
                continue;
            }
            self.coverage.count(Rule::DoneIsDone, 1);
            if containers_of(&state, row.id).iter().any(|(_, container)| container.state.may_run()) {
                let how = format!(
                    "operation {} reports that {} is stopped, and a container of it runs",
                    ended.id, row.name
                );
                return Err(Rule::DoneIsDone.broken(how));
            }
        }
        Ok(())
    }

    /// Checks that no operation is open once all faults have stopped.
    pub(super) fn every_operation_has_ended(&mut self, site: &Installation) -> Result<(), Broken> {
        let open = now_or_panic(site.reader.open_operations()).expect("the store answers");
        self.coverage.count(Rule::OperationsEnd, self.rows.len());
        match open.first() {
            None => Ok(()),
            Some(left) => {
                let (id, kind, state) = (left.id, left.command.kind(), left.state.as_str());
                let how = format!("operation {id}, {kind} of {}, is still {state}", left.workspace_name);
                Err(Rule::OperationsEnd.broken(how))
            }
        }
    }
}
