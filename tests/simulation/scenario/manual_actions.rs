//! Actions on the machine: manual changes of containers and volumes, and changes of disk, socket, process and clock.

use std::time::Duration;

use ostler::domain::{
    ids::WorkspaceId,
    naming::{VolumeKind, volume_name},
    status::Status,
};

use super::{
    super::{executor::Owner, faults},
    Scenario, UnreadJumps,
    book::open,
    running,
};
use crate::support::fake_engine::FakeContainer;

/// A manual action at the engine, without ostler.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ManualAction {
    Kill,
    Remove,
    Start,
    WipeConfig,
    WipeConfigDirectory,
    DeleteWork,
}

impl ManualAction {
    pub(super) const ALL: [Self; 6] = [
        Self::Kill,
        Self::Remove,
        Self::Start,
        Self::WipeConfig,
        Self::WipeConfigDirectory,
        Self::DeleteWork,
    ];
}

impl Scenario {
    /// Takes a manual action at the engine.
    pub(super) fn act_manually(&mut self, how: Option<ManualAction>) {
        let Some(id) = self.any_workspace() else { return };
        let starting = self.site.status(id) == Status::Provisioning;
        let random = self.site.sim.choose(|rng| {
            if starting && rng.permille(400) { ManualAction::Start } else { rng.pick(&ManualAction::ALL) }
        });
        self.act_manually_on(id, how.unwrap_or(random));
    }

    pub(super) fn act_manually_on(&mut self, id: WorkspaceId, action: ManualAction) {
        let row = self.site.row(id);
        let Some(container) = row.container else { return };
        let mut state = self.site.world.state();
        let what = match action {
            ManualAction::Kill => {
                if state.containers.get(&container).is_none_or(|container| !container.state.may_run()) {
                    return;
                }
                state.kill(&container, 137);
                "its container is killed"
            }
            ManualAction::Remove => {
                state.remove(&container);
                "its container is removed by hand"
            }
            ManualAction::Start => {
                let is_stopped = |container: &FakeContainer| !container.state.may_run();
                if !state.containers.get(&container).is_some_and(is_stopped)
                    || state.half_started.contains(&container)
                {
                    return;
                }
                state.run(&container);
                self.witness.started_by_hand.insert(id);
                self.witness.rebooted.remove(&id);
                "its container is started by hand"
            }
            ManualAction::WipeConfig | ManualAction::WipeConfigDirectory => {
                let name = volume_name(id, VolumeKind::Config);
                let Some(volume) = state.volumes.get_mut(&name) else { return };
                volume.files.clear();
                volume.directory_missing = action == ManualAction::WipeConfigDirectory;
                state.changes += 1;
                self.witness.wiped.insert(id);
                "its config volume is wiped"
            }
            ManualAction::DeleteWork
                if self.parameters.work_deletions
                    && row.has_work_volume
                    && !self.book().new_volumes.contains(&id) =>
            {
                state.volumes.remove(&volume_name(id, VolumeKind::Work));
                state.changes += 1;
                self.witness.lost_work.insert(id);
                "its work volume is deleted by hand"
            }
            ManualAction::DeleteWork => return,
        };
        drop(state);
        self.count(what);
        self.note(format!("{}: {what}", row.name));
    }

    pub(super) fn fill_or_free_the_disk(&mut self) {
        let pages = self.site.sim.choose(|rng| rng.below(5));
        if pages == 4 {
            self.site.disk.free();
            self.note("the disk has space again");
        } else {
            self.site.disk.fill(u32::try_from(pages).expect("it is small"));
            self.count("the disk was full");
            self.note(format!("the disk is full except {pages} pages"));
        }
    }

    pub(super) fn lead_elsewhere_or_back(&mut self) {
        if self.site.world.is_elsewhere() {
            self.lead_back();
        } else {
            self.site.world.lead_elsewhere();
            self.count("the socket was pointed to another engine");
            self.note("the socket points to another engine");
            let all = self.site.rows().into_iter().map(|row| row.id);
            self.witness.elsewhere.extend(all);
        }
    }

    /// Points the socket back to our engine, after the other engine has answered all its requests, however late. If
    /// the socket pointed away and back within one snapshot, the sentinel would exist before and after it, and the
    /// daemon could not detect the change.
    pub(super) fn lead_back(&mut self) {
        let mut left = faults::LATEST_ANSWER;
        for _ in 0..2000 {
            self.site.sim.run_ready();
            if let Some(next) = self.site.sim.held().first().copied() {
                self.take(next);
                continue;
            }
            let Some(next) = self.site.sim.next_timer().filter(|next| *next <= left) else { break };
            left -= next;
            self.site.sim.fire_next_timer();
        }
        // A registry that owned nothing at that time may have accepted the other engine. Whatever it created then is in
        // that engine.
        self.witness.elsewhere.extend(self.site.rows().into_iter().map(|row| row.id));
        self.site.world.lead_here();
        self.note("the socket points to our engine again");
    }

    pub(super) fn crash(&mut self) {
        // Crashes after some of the woken tasks have run and others have not.
        let (some, arriving) = self.site.sim.choose(|rng| (rng.below(4), rng.below(1001)));
        for _ in 0..some {
            self.site.sim.run_one();
        }
        self.count("crashes");
        self.note("the daemon is killed and restarted");
        let sim = self.site.sim.clone();
        let mut fates = sim.choose(|rng| rng.clone());
        self.site.crash(|_| fates.permille(arriving));
        self.reset_after_start();
    }

    /// Stops the daemon's process for a while; both clocks continue.
    pub(super) fn freeze(&mut self) {
        // A daemon that has just started announces its next tick only when its tasks run.
        self.site.sim.run_ready();
        let minutes = self.site.sim.choose(|rng| rng.pick(&[1, 4, 10, 14, 30]));
        self.count("freezes of the daemon");
        self.note(format!("the daemon is stopped for {minutes} minutes"));
        self.site.freeze(Duration::from_mins(minutes));
        let now = self.site.sim.clock().awake();
        self.witness.listening_since = now;
        if let Some(unread) = &mut self.unread {
            unread.listening_since = now;
        }
        self.witness.across_jump.extend(running(&self.site, &open(&self.book)));
    }

    /// Reboots the host.
    pub(super) fn reboot(&mut self) {
        self.count("reboots");
        self.note("the host reboots");
        let ran = self.site.reboot();
        self.reset_after_start();
        let was_up = |id: &WorkspaceId| matches!(self.site.status(*id), Status::Online | Status::Degraded);
        self.witness.rebooted = ran.into_iter().filter(was_up).collect();
    }

    /// Resets the record when a new process of the daemon has started.
    fn reset_after_start(&mut self) {
        self.site.watch();
        self.witness.listening_since = self.site.sim.clock().awake();
        self.witness.across_jump.clear();
        self.witness.rebooted.clear();
        let mut book = open(&self.book);
        book.running_passes.clear();
        book.cut_off();
    }

    pub(super) fn jump(&mut self) {
        let minutes = self.site.sim.choose(|rng| rng.below(240));
        let minutes = i64::try_from(minutes).expect("it is small") - 60;
        self.count("jumps of the wall clock");
        self.note(format!("the wall clock jumps by {minutes} minutes"));
        self.site.sim.jump(minutes * 60_000);
        if minutes != 0 {
            let readings = self.site.sim.readings(Owner::Daemon);
            let mut unread =
                self.unread.take().filter(|unread| unread.readings == readings).unwrap_or(UnreadJumps {
                    readings,
                    minutes: 0,
                    listening_since: self.witness.listening_since,
                });
            unread.minutes += minutes;
            self.witness.listening_since = match unread.minutes {
                0 => unread.listening_since,
                _ => self.site.sim.clock().awake(),
            };
            self.unread = Some(unread);
            self.witness.across_jump.extend(running(&self.site, &open(&self.book)));
        }
    }
}
