//! The most critical races. Scenarios cause them on purpose, because random steps rarely do.

use std::time::Duration;

use ostler::domain::{naming::container_name, workspace::Workspace};

use super::{
    super::{
        commands::Command,
        executor::Seen,
        installation::{SWEEPS, now_or_panic},
        invariants::Broken,
    },
    Scenario,
    manual_actions::ManualAction,
};

impl Scenario {
    /// Runs one of the races.
    pub(super) fn race(&mut self) -> Result<(), Broken> {
        match self.site.sim.choose(|rng| rng.below(6)) {
            0 if !self.parameters.driven => self.sweep_tokens_while_it_starts(),
            1 if self.parameters.detours > 0 => self.lead_elsewhere_while_it_is_deleted(),
            2 if !self.parameters.driven => self.restore_an_unknown_container(),
            3 => self.change_commands_in_a_tree(),
            4 => self.undo_a_purge(),
            _ => self.start_by_hand_during_a_start(),
        }
    }

    /// A container has been gone for longer than the grace, in two listings. Its workspace is restarted while the
    /// token sweep is between its snapshot and its last statement.
    fn sweep_tokens_while_it_starts(&mut self) -> Result<(), Broken> {
        let has_container = |row: &Workspace| self.site.container(row.id).is_some();
        let Some(id) = self.any_workspace_that(has_container) else { return Ok(()) };
        self.site.remove_container(id);
        self.count("its container is removed by hand");
        self.note("a container is removed by hand, and its workspace is restarted after the grace");
        for _ in 0..2 {
            self.begin_pass("settle");
            self.until_nothing_is_due()?;
            self.site.sim.pass(Duration::from_mins(6));
            self.check()?;
        }
        self.begin_pass("revoke_stale_tokens");
        let steps = self.site.sim.choose(|rng| rng.below(8));
        self.take_up_to(steps, |seen| seen.side == SWEEPS)?;
        self.give_command(id, Command::Restart);
        for _ in 0..2 {
            self.take_up_to(100, |seen| seen.side != SWEEPS)?;
            if self.site.sim.next_timer().is_some_and(|next| next <= Duration::from_secs(2)) {
                self.site.sim.fire_next_timer();
            }
        }
        Ok(())
    }

    /// A purge deletes in steps, and between two of them the socket points to another engine that has none of the
    /// objects.
    fn lead_elsewhere_while_it_is_deleted(&mut self) -> Result<(), Broken> {
        let Some(id) = self.any_workspace() else { return Ok(()) };
        if self.site.world.is_elsewhere() {
            return Ok(());
        }
        self.give_command(id, Command::Purge);
        let steps = self.site.sim.choose(|rng| rng.below(25));
        self.take_up_to(steps, |seen| seen.side != SWEEPS)?;
        self.lead_elsewhere_or_back();
        let steps = self.site.sim.choose(|rng| rng.below(15));
        self.take_up_to(steps, |seen| seen.side != SWEEPS)?;
        self.lead_elsewhere_or_back();
        self.check()
    }

    /// A purge is undone while it is in progress, and its workspace is removed again, without a purge.
    fn undo_a_purge(&mut self) -> Result<(), Broken> {
        let Some(id) = self.any_workspace() else { return Ok(()) };
        self.give_command(id, Command::Purge);
        let steps = self.site.sim.choose(|rng| rng.below(25));
        self.take_up_to(steps, |seen| seen.side != SWEEPS)?;
        self.site.sim.run_ready();
        let of_the_purge = self.site.sim.held();
        for command in [Command::Undelete, Command::Remove] {
            self.give_command(id, command);
            self.take_up_to(100, |seen| seen.side != SWEEPS && !of_the_purge.contains(seen))?;
        }
        self.take_up_to(100, |seen| seen.side != SWEEPS)
    }

    /// A user runs `podman start` on the container that ostler is about to start.
    fn start_by_hand_during_a_start(&mut self) -> Result<(), Broken> {
        let has_container = |row: &Workspace| self.site.container(row.id).is_some();
        let Some(id) = self.any_workspace_that(has_container) else { return Ok(()) };
        self.give_command(id, Command::Restart);
        let steps = self.site.sim.choose(|rng| rng.below(16));
        self.take_up_to(steps, |seen| seen.side != SWEEPS)?;
        self.act_manually_on(id, ManualAction::Start);
        self.check()
    }

    /// Operators give several commands in turn to a workspace and to a child of it. They wait for every answer, or for
    /// none.
    fn change_commands_in_a_tree(&mut self) -> Result<(), Broken> {
        let below: Vec<_> = self.site.rows().into_iter().filter(|row| row.spec.parent.is_some()).collect();
        if below.is_empty() {
            return Ok(());
        }
        let below = self.site.sim.choose(|rng| rng.pick(&below));
        let lead = below.spec.parent.unwrap_or(below.id);
        for _ in 0..5 {
            let (of_lead, command, steps) = self.site.sim.choose(|rng| {
                let command = rng.pick(&[
                    Command::Stop,
                    Command::Start,
                    Command::Stop,
                    Command::Start,
                    Command::Remove,
                    Command::Undelete,
                ]);
                let most = rng.pick(&[1, 4, 12, 100]);
                (rng.permille(750), command, rng.below(most))
            });
            self.give_command(if of_lead { lead } else { below.id }, command);
            self.take_up_to(steps, |seen| seen.side != SWEEPS)?;
        }
        Ok(())
    }

    /// An unknown container is moved to the trash, and an operator restores it, completely or in part.
    fn restore_an_unknown_container(&mut self) -> Result<(), Broken> {
        let id = self.site.add_unknown();
        self.count("an unknown container was added");
        self.note(format!("an unknown container of {id} is added"));
        let (without_container, steps) = self.site.sim.choose(|rng| (rng.permille(300), rng.below(40)));
        if without_container {
            let mut state = self.site.world.state();
            let name = container_name(id, 1);
            let container = state.containers.iter().find(|(_, container)| container.name == name);
            if let Some(container) = container.map(|(id, _)| id.clone()) {
                state.remove(&container);
            }
        }
        self.begin_pass("settle");
        self.until_nothing_is_due()?;
        self.site.sim.pass(Duration::from_mins(11));
        self.check()?;
        self.begin_pass("reap_unknown");
        self.until_nothing_is_due()?;
        let trash = now_or_panic(self.site.reader.trash()).expect("the store answers");
        if let Some(entry) = trash.iter().find(|entry| entry.workspace == id) {
            self.restore(entry);
        }
        self.take_up_to(steps, |seen| seen.side != SWEEPS)
    }

    /// Takes up to `most` effects for which `is_selected` holds, and checks everything after each.
    fn take_up_to(&mut self, most: usize, is_selected: impl Fn(&Seen) -> bool) -> Result<(), Broken> {
        for _ in 0..most {
            self.site.sim.run_ready();
            let held = self.site.sim.held();
            let Some(next) = held.iter().find(|seen| is_selected(seen)).copied() else { break };
            self.take(next);
            self.check()?;
        }
        Ok(())
    }
}
