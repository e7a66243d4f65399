//! The end of a scenario: faults stop, and the state must converge.

use std::collections::BTreeSet;

use ostler::{
    domain::status::{Failure, Status},
    store::TokenSubject,
    sweep::Run,
};

use super::{
    super::{
        commands::Command,
        installation::{healthy, now_or_panic},
        invariants::{Broken, Rule},
    },
    Scenario,
    book::open,
    line_above,
};

impl Scenario {
    /// Stops faults, completes what is in progress, and sweeps until nothing is left to do.
    pub(super) fn stop_faults(&mut self) -> Result<(), Broken> {
        self.note("all faults stop");
        if self.site.world.is_elsewhere() {
            self.lead_back();
            self.check()?;
        }
        self.site.world.heal();
        self.site.disk.free();
        for _ in 0..if self.parameters.driven { 300 } else { 100_000 } {
            self.site.sim.run_ready();
            let held = self.site.sim.held();
            if !held.is_empty() {
                let next = self.next_of(&held);
                self.take(next);
            } else if !self.site.sim.fire_next_timer() {
                break;
            }
            self.check()?;
        }
        self.witness.approving = true;
        self.report_all_healthy();
        if self.parameters.driven {
            // The checks of the driver are complete. From here on the test runs the passes, as in scenarios without a
            // driver.
            self.site.stop_driver();
        }
        self.converge_at_end()?;
        // A workspace that also lost its work volume cannot be started.
        let (lost_work, wiped): (BTreeSet<_>, BTreeSet<_>) =
            self.witness.wiped.iter().partition(|id| self.witness.lost_work.contains(id));
        self.witness.wiped = lost_work;
        for id in wiped {
            // An agent that lost its token file gets a new one at its next start. If the file was lost before the
            // agent read it, no heartbeat was ever received.
            let late = Status::Failed(Failure::ProvisionTimeout);
            if [Status::Online, Status::Degraded, late].contains(&self.site.status(id)) {
                self.give_command(id, Command::Restart);
                self.site.sim.quiesce();
            }
        }
        let last = self.converge_at_end()?;
        let live = self.site.rows().iter().filter(|row| row.status != Status::Removed).count();
        let remembered = self.site.daemon.remembered();
        self.witness.coverage.count(Rule::MemoryIsBounded, live);
        if remembered > 2 * live {
            let how = format!("{remembered} entries are kept in memory for {live} workspaces");
            return Err(Rule::MemoryIsBounded.broken(how));
        }
        self.note(format!("at rest: {} passes had nothing to do", last.len()));
        self.check()
    }

    pub(super) fn converge_at_end(&self) -> Result<Vec<Run>, Broken> {
        self.site.try_to_converge().map_err(|left| Rule::ItHeals.broken(left))
    }

    /// Sends a healthy, idle heartbeat with every token that is still valid.
    pub(super) fn report_all_healthy(&self) {
        for token in &self.book().tokens {
            if let Some(TokenSubject::Workspace(token_owner)) =
                self.site.reader.token_subject(&token.digest(), self.site.sim.now())
            {
                now_or_panic(self.site.reader.record_heartbeat(token_owner, healthy(), self.site.sim.now()))
                    .expect("the store answers");
            }
        }
    }

    /// Promise 3: if a command was granted and no other was given since, the row still agrees with it.
    pub(super) fn last_command_wins(&mut self) -> Result<(), Broken> {
        let book = open(&self.book);
        let ids: Vec<_> = book.command_history.given.keys().copied().collect();
        for id in ids {
            let above = line_above(&self.site, id);
            let Some(last) = book.command_history.last_granted(id, &above) else { continue };
            self.witness.coverage.count(Rule::LastCommandWins, 1);
            let row = self.site.row(id);
            // A lost work volume prevents a start that was ordered before.
            let is_work_lost =
                self.witness.lost_work.contains(&id) && row.status == Status::Failed(Failure::StartError);
            if !last.is_kept_by(row.status) && !is_work_lost {
                let (number, command) = (last.number, last.command);
                let how = format!(
                    "command {number} ({command:?} {}) was granted, and the row is {}",
                    row.name, row.status
                );
                return Err(Rule::LastCommandWins.broken(how));
            }
        }
        self.witness
            .coverage
            .count(Rule::MessagesArrive, usize::try_from(book.arrived).unwrap_or(usize::MAX));
        Ok(())
    }
}
