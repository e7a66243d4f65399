//! Actions on the machine: manual changes of containers and volumes, and changes of disk, socket, process and clock.

use std::time::Duration;

use ostler::{
    domain::{
        ids::WorkspaceId,
        naming::{VolumeKind, volume_name},
        status::Status,
    },
    engine::fake::FakeContainer,
};

use super::{
    super::{executor::Owner, faults},
    Story, Unread,
    book::open,
    running,
};

/// A manual action at the engine, without ostler.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Hand {
    Kill,
    Remove,
    Start,
    WipeConfig,
    WipeConfigDirectory,
    TakeWork,
}

impl Hand {
    pub(super) const ALL: [Self; 6] =
        [Self::Kill, Self::Remove, Self::Start, Self::WipeConfig, Self::WipeConfigDirectory, Self::TakeWork];
}

impl Story {
    /// Takes a manual action at the engine.
    pub(super) fn lay_hands_on(&mut self, how: Option<Hand>) {
        let Some(id) = self.any_workspace() else { return };
        let starting = self.house.status(id) == Status::Provisioning;
        let hand = self
            .house
            .sim
            .choose(|rng| if starting && rng.permille(400) { Hand::Start } else { rng.pick(&Hand::ALL) });
        self.lay_a_hand_on(id, how.unwrap_or(hand));
    }

    pub(super) fn lay_a_hand_on(&mut self, id: WorkspaceId, hand: Hand) {
        let row = self.house.row(id);
        let Some(container) = row.container else { return };
        let mut state = self.house.world.state();
        let what = match hand {
            Hand::Kill => {
                if state.containers.get(&container).is_none_or(|container| !container.state.may_run()) {
                    return;
                }
                state.kill(&container, 137);
                "its container is killed"
            }
            Hand::Remove => {
                state.remove(&container);
                "its container is removed by hand"
            }
            Hand::Start => {
                let stands = |container: &FakeContainer| !container.state.may_run();
                if !state.containers.get(&container).is_some_and(stands)
                    || state.half_started.contains(&container)
                {
                    return;
                }
                state.run(&container);
                self.witness.hands.insert(id);
                self.witness.rebooted.remove(&id);
                "its container is started by hand"
            }
            Hand::WipeConfig | Hand::WipeConfigDirectory => {
                let name = volume_name(id, VolumeKind::Config);
                let Some(volume) = state.volumes.get_mut(&name) else { return };
                volume.files.clear();
                volume.directory_missing = hand == Hand::WipeConfigDirectory;
                state.changes += 1;
                self.witness.wiped.insert(id);
                "its config volume is wiped"
            }
            Hand::TakeWork
                if self.temper.robbers && row.has_work_volume && !self.book().new_volumes.contains(&id) =>
            {
                state.volumes.remove(&volume_name(id, VolumeKind::Work));
                state.changes += 1;
                self.witness.robbed.insert(id);
                "its work volume is taken away by hand"
            }
            Hand::TakeWork => return,
        };
        drop(state);
        self.count(what);
        self.note(format!("{}: {what}", row.name));
    }

    pub(super) fn fill_or_free_the_disk(&mut self) {
        let pages = self.house.sim.choose(|rng| rng.below(5));
        if pages == 4 {
            self.house.disk.free();
            self.note("there is room on the disk");
        } else {
            self.house.disk.fill(u32::try_from(pages).expect("it is small"));
            self.count("the disk was full");
            self.note(format!("the disk is full but for {pages} pages"));
        }
    }

    pub(super) fn lead_elsewhere_or_back(&mut self) {
        if self.house.world.is_elsewhere() {
            self.lead_back();
        } else {
            self.house.world.lead_elsewhere();
            self.count("the socket led to another engine");
            self.note("the socket leads to another engine");
            let all = self.house.rows().into_iter().map(|row| row.id);
            self.witness.elsewhere.extend(all);
        }
    }

    /// Points the socket back to our engine, after the other engine has answered all its requests, however late. If
    /// the socket pointed away and back within one snapshot, the sentinel would be there before and after, and nothing
    /// could detect the change.
    pub(super) fn lead_back(&mut self) {
        let mut left = faults::LATEST_ANSWER;
        for _ in 0..2000 {
            self.house.sim.run_ready();
            if let Some(next) = self.house.sim.held().first().copied() {
                self.take(next);
                continue;
            }
            let Some(next) = self.house.sim.next_timer().filter(|next| *next <= left) else { break };
            left -= next;
            self.house.sim.fire_next_timer();
        }
        // A registry that owned nothing at that time may have accepted that engine; what it made is there.
        self.witness.elsewhere.extend(self.house.rows().into_iter().map(|row| row.id));
        self.house.world.lead_here();
        self.note("the socket leads to our engine again");
    }

    pub(super) fn crash(&mut self) {
        // Crashes after some of the woken tasks have run and others have not.
        let (some, arriving) = self.house.sim.choose(|rng| (rng.below(4), rng.below(1001)));
        for _ in 0..some {
            self.house.sim.run_one();
        }
        self.count("crashes");
        self.note("the daemon is killed and starts again");
        let sim = self.house.sim.clone();
        let mut fates = sim.choose(|rng| rng.clone());
        self.house.crash(|_| fates.permille(arriving));
        self.begin_anew();
    }

    /// Stops the daemon's process for a while; both clocks continue.
    pub(super) fn freeze(&mut self) {
        // A daemon that has just started has not announced a tick yet.
        self.house.sim.run_ready();
        let minutes = self.house.sim.choose(|rng| rng.pick(&[1, 4, 10, 14, 30]));
        self.count("freezes of the daemon");
        self.note(format!("the daemon is stopped for {minutes} minutes"));
        self.house.freeze(Duration::from_mins(minutes));
        let now = self.house.sim.clock().awake();
        self.witness.listening_since = now;
        if let Some(unread) = &mut self.unread {
            unread.listening_since = now;
        }
        self.witness.across_jump.extend(running(&self.house, &open(&self.book)));
    }

    /// Reboots the host.
    pub(super) fn reboot(&mut self) {
        self.count("reboots");
        self.note("the host starts again");
        let ran = self.house.reboot();
        self.begin_anew();
        let was_up = |id: &WorkspaceId| matches!(self.house.status(*id), Status::Online | Status::Degraded);
        self.witness.rebooted = ran.into_iter().filter(was_up).collect();
    }

    /// Resets the record when a new process of the daemon has started.
    fn begin_anew(&mut self) {
        self.house.watch();
        self.witness.listening_since = self.house.sim.clock().awake();
        self.witness.across_jump.clear();
        self.witness.rebooted.clear();
        let mut book = open(&self.book);
        book.running_passes.clear();
        book.cut_off();
    }

    pub(super) fn jump(&mut self) {
        let minutes = self.house.sim.choose(|rng| rng.below(240));
        let minutes = i64::try_from(minutes).expect("it is small") - 60;
        self.count("jumps of the wall clock");
        self.note(format!("the wall clock jumps by {minutes} minutes"));
        self.house.sim.jump(minutes * 60_000);
        if minutes != 0 {
            let readings = self.house.sim.readings(Owner::Daemon);
            let mut unread = self
                .unread
                .take()
                .filter(|unread| unread.readings == readings)
                .unwrap_or(Unread { readings, minutes: 0, listening_since: self.witness.listening_since });
            unread.minutes += minutes;
            self.witness.listening_since = match unread.minutes {
                0 => unread.listening_since,
                _ => self.house.sim.clock().awake(),
            };
            self.unread = Some(unread);
            self.witness.across_jump.extend(running(&self.house, &open(&self.book)));
        }
    }
}
