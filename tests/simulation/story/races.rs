//! Races that are feared most, brought about on purpose: chance alone rarely gets there.

use std::time::Duration;

use ostler::domain::workspace::Workspace;

use super::{
    super::{executor::Seen, house::SWEEPS, invariants::Broken, people::Word},
    Story,
    hands::Hand,
};

impl Story {
    /// One of them.
    pub(super) fn race(&mut self) -> Result<(), Broken> {
        match self.house.sim.choose(|rng| rng.below(3)) {
            0 if !self.temper.driven => self.sweep_tokens_while_it_starts(),
            1 if self.temper.detours > 0 => self.lead_elsewhere_while_it_is_deleted(),
            _ => self.start_by_hand_what_is_being_started(),
        }
    }

    /// A container has been gone for longer than the grace, in two listings, and its workspace is started anew while
    /// the sweep of tokens is somewhere between its look and its last statement.
    pub(super) fn sweep_tokens_while_it_starts(&mut self) -> Result<(), Broken> {
        let has_container = |row: &Workspace| self.house.container(row.id).is_some();
        let Some(id) = self.any_workspace_that(has_container) else { return Ok(()) };
        self.house.remove_container(id);
        self.count("its container is removed by hand");
        self.note("a container is removed by hand, and long gone when its workspace is started anew");
        for _ in 0..2 {
            self.begin_pass("settle");
            self.until_nothing_is_due()?;
            self.house.sim.pass(Duration::from_mins(6));
            self.check()?;
        }
        self.begin_pass("revoke_stale_tokens");
        let far = self.house.sim.choose(|rng| rng.below(8));
        self.go_on_for(far, |seen| seen.side == SWEEPS)?;
        self.say(id, Word::Restart);
        for _ in 0..2 {
            self.go_on_for(100, |seen| seen.side != SWEEPS)?;
            if self.house.sim.next_timer().is_some_and(|next| next <= Duration::from_secs(2)) {
                self.house.sim.fire_next_timer();
            }
        }
        Ok(())
    }

    /// What is purged is deleted in steps, and between two of them the socket leads to another engine, where nobody has
    /// ever heard of it.
    pub(super) fn lead_elsewhere_while_it_is_deleted(&mut self) -> Result<(), Broken> {
        let Some(id) = self.any_workspace() else { return Ok(()) };
        if self.house.world.is_elsewhere() {
            return Ok(());
        }
        self.say(id, Word::Purge);
        let far = self.house.sim.choose(|rng| rng.below(25));
        self.go_on_for(far, |seen| seen.side != SWEEPS)?;
        self.lead_elsewhere_or_back();
        let far = self.house.sim.choose(|rng| rng.below(15));
        self.go_on_for(far, |seen| seen.side != SWEEPS)?;
        self.lead_elsewhere_or_back();
        self.check()
    }

    /// A person runs `podman start` on what ostler is just about to start.
    pub(super) fn start_by_hand_what_is_being_started(&mut self) -> Result<(), Broken> {
        let has_container = |row: &Workspace| self.house.container(row.id).is_some();
        let Some(id) = self.any_workspace_that(has_container) else { return Ok(()) };
        self.say(id, Word::Restart);
        let far = self.house.sim.choose(|rng| rng.below(16));
        self.go_on_for(far, |seen| seen.side != SWEEPS)?;
        self.lay_a_hand_on(id, Hand::Start);
        self.check()
    }

    /// Takes up to so many of the effects that are meant, and looks at everything after each.
    pub(super) fn go_on_for(&mut self, most: usize, meant: impl Fn(&Seen) -> bool) -> Result<(), Broken> {
        for _ in 0..most {
            self.house.sim.run_ready();
            let held = self.house.sim.held();
            let Some(next) = held.iter().find(|seen| meant(seen)).copied() else { break };
            self.take(next);
            self.check()?;
        }
        Ok(())
    }
}
