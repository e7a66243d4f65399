//! The end of a scenario: faults stop, and the state must converge.

use std::collections::BTreeSet;

use ostler::{
    domain::status::{Failure, Status},
    store::Bearer,
    sweep::Run,
};

use super::{
    super::{
        house::{at_once, well},
        invariants::{Broken, Rule},
        people::Word,
    },
    Story,
    book::open,
    line_above,
};

impl Story {
    /// Stops faults, completes what is in progress, and sweeps until nothing is left to do.
    pub(super) fn calm_down(&mut self) -> Result<(), Broken> {
        self.note("everything is well again");
        if self.house.world.is_elsewhere() {
            self.lead_back();
            self.check()?;
        }
        self.house.world.heal();
        self.house.disk.free();
        for _ in 0..if self.temper.driven { 300 } else { 100_000 } {
            self.house.sim.run_ready();
            let held = self.house.sim.held();
            if !held.is_empty() {
                let next = self.next_of(&held);
                self.take(next);
            } else if !self.house.sim.fire_next_timer() {
                break;
            }
            self.check()?;
        }
        self.witness.approving = true;
        self.everybody_is_well();
        if self.temper.driven {
            // From here on the seed runs the passes, as in every other scenario; the checks of the driver are
            // complete.
            self.house.put_driver_to_rest();
        }
        self.come_to_rest()?;
        // A workspace that also lost its work volume cannot be started.
        let (robbed, wiped): (BTreeSet<_>, BTreeSet<_>) =
            self.witness.wiped.iter().partition(|id| self.witness.robbed.contains(id));
        self.witness.wiped = robbed;
        for id in wiped {
            // An agent that lost its token file gets a new one at its next start. If the file was lost before the
            // agent read it, no heartbeat was ever received.
            let late = Status::Failed(Failure::ProvisionTimeout);
            if [Status::Online, Status::Degraded, late].contains(&self.house.status(id)) {
                self.say(id, Word::Restart);
                self.house.sim.quiesce();
            }
        }
        let last = self.come_to_rest()?;
        let live = self.house.rows().iter().filter(|row| row.status != Status::Removed).count();
        let remembered = self.house.daemon.remembered();
        self.witness.coverage.count(Rule::MemoryIsBounded, live);
        if remembered > 2 * live {
            let how = format!("{remembered} things are remembered of {live} workspaces");
            return Err(Rule::MemoryIsBounded.broken(how));
        }
        self.note(format!("at rest after {} passes had nothing to do", last.len()));
        self.check()
    }

    pub(super) fn come_to_rest(&self) -> Result<Vec<Run>, Broken> {
        self.house.try_to_converge().map_err(|left| Rule::ItHeals.broken(left))
    }

    /// Sends a healthy, idle heartbeat with every token that is still valid.
    pub(super) fn everybody_is_well(&self) {
        for token in &self.book().tokens {
            if let Some(Bearer::Workspace(holder)) =
                self.house.eye.bearer(&token.digest(), self.house.sim.now())
            {
                at_once(self.house.eye.note_beat(holder, well(), self.house.sim.now()))
                    .expect("the store answers");
            }
        }
    }

    /// Promise 3: if a command was granted and no other was given since, the row still agrees with it.
    pub(super) fn the_last_word_counts(&mut self) -> Result<(), Broken> {
        let book = open(&self.book);
        let ids: Vec<_> = book.words.said.keys().copied().collect();
        for id in ids {
            let above = line_above(&self.house, id);
            let Some(last) = book.words.last_granted(id, &above) else { continue };
            self.witness.coverage.count(Rule::LastWordCounts, 1);
            let row = self.house.row(id);
            // A lost work volume prevents what was ordered before.
            let is_robbed =
                self.witness.robbed.contains(&id) && row.status == Status::Failed(Failure::StartError);
            if !last.is_kept_by(row.status) && !is_robbed {
                let (number, word) = (last.number, last.word);
                let how =
                    format!("order {number} ({word:?} {}) was granted, and it is {}", row.name, row.status);
                return Err(Rule::LastWordCounts.broken(how));
            }
        }
        self.witness
            .coverage
            .count(Rule::MessagesArrive, usize::try_from(book.arrived).unwrap_or(usize::MAX));
        Ok(())
    }
}
