//! The liveness windows reset after a suspend, a stop of the daemon or a change of the clock. No status changes before
//! a full window has passed since then. Afterwards the statuses of agents that are still silent change.

use std::time::Duration;

use ostler::{
    domain::{
        heartbeat::Heartbeat,
        ids::WorkspaceId,
        liveness::{RESTART_SILENT_AFTER, SILENT_AFTER, WEDGED_AFTER},
        runtime::Runtime,
        status::{Failure, Status},
    },
    ops::CreateRequest,
    store::{Registration, ReportResult, TokenSubject},
};

use crate::simulation::{
    executor::TaskOrder,
    installation::{IMAGE, Installation, healthy, now_or_panic, request},
    invariants::Witness,
};

const HOUR: i64 = 3_600_000;
/// Interval of the passes.
const OFTEN: Duration = Duration::from_secs(20);
/// Idle time before a workspace with a hibernation policy hibernates.
const IDLE: Duration = Duration::from_mins(7);

/// One workspace for every kind of liveness window.
struct Fleet {
    site: Installation,
    witness: Witness,
    online: WorkspaceId,
    degraded: WorkspaceId,
    busy: WorkspaceId,
    idle: WorkspaceId,
    starting: WorkspaceId,
    external: WorkspaceId,
}

impl Fleet {
    fn new() -> Self {
        let site = Installation::new(1, TaskOrder::AsWoken);
        let witness = Witness::of(&site);
        let online = site.create_online(request("online", IMAGE));
        let degraded = site.create_online(request("degraded", IMAGE));
        site.heartbeat(degraded, Heartbeat { error_rate: 1.0, ..healthy() });
        let busy = site.create_online(request("busy", IMAGE));
        site.heartbeat(busy, Heartbeat { active_tasks: 1, ..healthy() });
        let minutes = u32::try_from(IDLE.as_secs() / 60).unwrap();
        // This runtime sends no heartbeats. A workspace of a runtime that sends them would be marked as silent first.
        let mut made = request("idle", IMAGE);
        made.spec.hibernation_idle_minutes = Some(minutes);
        let idle = site.calmly(|ops| async move { ops.create(made).await }).unwrap().id;
        site.sim.quiesce();
        let starting = site.create_started(request("starting", IMAGE));
        let made = CreateRequest { external: true, ..request("external", "") };
        let made = site.calmly(|ops| async move { ops.create(made).await }).unwrap();
        let digest = made.token.expect("an external workspace gets a token").digest();
        let Some(TokenSubject::Workspace(token_owner)) = site.reader.token_subject(&digest, site.sim.now())
        else {
            panic!("its token is not valid")
        };
        let registration = Registration { card: Some(serde_json::json!({})), ..Registration::default() };
        let recorded =
            now_or_panic(site.reader.record_registration(token_owner, registration, site.sim.now())).unwrap();
        assert_eq!(recorded, ReportResult::Noted);
        let fleet = Self { site, witness, online, degraded, busy, idle, starting, external: made.id };
        assert_eq!(fleet.statuses(), Self::before());
        fleet
    }

    fn before() -> Vec<Status> {
        use Status::{Degraded, Online, Provisioning};
        vec![Online, Degraded, Online, Online, Provisioning, Online]
    }

    fn statuses(&self) -> Vec<Status> {
        let all = [self.online, self.degraded, self.busy, self.idle, self.starting, self.external];
        all.map(|id| self.site.status(id)).to_vec()
    }

    fn restarts(&self, id: WorkspaceId) -> u32 {
        self.site.row(id).incarnation.0
    }

    /// Runs the passes for this time, without any heartbeat.
    fn sweep_for(&mut self, time: Duration) {
        let until = self.site.sim.now() + time;
        while self.site.sim.now() < until {
            self.site.sweep();
            self.site.sim.quiesce();
            self.witness.check(&self.site).unwrap();
            self.site.sim.pass(OFTEN.min(until.since(self.site.sim.now())));
        }
    }

    /// Asserts that nothing changes for a full window from now on, and that everything changes afterwards.
    fn assert_full_windows(mut self, how: &str) {
        let wedged = |fleet: &Self| {
            let row = now_or_panic(fleet.site.reader.describe(fleet.busy)).unwrap();
            row.expect("there is such a row").vitals.wedged_since
        };
        let before = Self::before();
        self.sweep_for(SILENT_AFTER.saturating_sub(Duration::from_secs(1)));
        assert_eq!(self.statuses(), before, "{how}: a status changed before a window had passed");
        let moved = |at: usize| self.statuses()[at];
        assert_eq!(moved(0), Status::Online);
        self.sweep_for(OFTEN * 3);
        let now = self.statuses();
        assert_eq!(now[0], Status::Degraded, "{how}: no status change after a whole window of silence");
        assert_eq!(now[5], Status::AwaitingAgent, "{how}: no status change after a whole window of silence");
        assert_eq!(
            (now[3], now[4]),
            (before[3], before[4]),
            "{how}: a status changed before its longer window had passed"
        );
        assert_eq!(wedged(&self), None, "{how}: a change came before its longer window had passed");
        self.sweep_for(WEDGED_AFTER.saturating_sub(SILENT_AFTER));
        assert!(wedged(&self).is_some(), "{how}: not marked wedged after a whole window without progress");
        assert_eq!(
            self.statuses()[3],
            Status::Online,
            "{how}: a change came before its longer window had passed"
        );
        self.sweep_for(IDLE.saturating_sub(WEDGED_AFTER));
        assert_eq!(
            self.statuses()[3],
            Status::Hibernated,
            "{how}: not hibernated after a whole window of idle time"
        );
        let limit = Runtime::agent().provisioning_limit;
        assert_eq!(
            self.statuses()[4],
            Status::Provisioning,
            "{how}: a change came before its longer window had passed"
        );
        self.sweep_for(limit.saturating_sub(IDLE + OFTEN * 4));
        assert_eq!(
            self.statuses()[4],
            Status::Provisioning,
            "{how}: a change came before its longer window had passed"
        );
        assert_eq!(
            self.restarts(self.degraded),
            1,
            "{how}: a change came before its longer window had passed"
        );
        self.sweep_for(OFTEN * 6);
        let late = Status::Failed(Failure::ProvisionTimeout);
        assert_eq!(
            self.statuses()[4],
            late,
            "{how}: the start did not time out after a whole window without a heartbeat"
        );
        self.sweep_for((SILENT_AFTER + RESTART_SILENT_AFTER).saturating_sub(limit));
        assert_eq!(
            self.restarts(self.degraded),
            2,
            "{how}: it was not restarted after the full time of silence"
        );
    }
}

#[test]
fn liveness_windows_reset_after_suspend() {
    for hours in [1, 9] {
        let fleet = Fleet::new();
        fleet.site.sim.pass(Duration::from_mins(2));
        fleet.site.sim.jump(hours * HOUR);
        fleet.assert_full_windows("a suspend");
    }
}

#[test]
fn liveness_windows_reset_after_a_daemon_stop() {
    let mut fleet = Fleet::new();
    fleet.site.sim.crash(|_| false);
    fleet.site.sim.pass(Duration::from_hours(5));
    fleet.site.start_daemon();
    // The interrupted start begins again. This restart is correct, because silence is not its cause.
    fleet.assert_full_windows("a stop of the daemon");
}

#[test]
fn liveness_windows_reset_after_a_clock_change() {
    for hours in [3, -3] {
        let mut fleet = Fleet::new();
        fleet.sweep_for(Duration::from_mins(2));
        fleet.site.sim.jump(hours * HOUR);
        fleet.assert_full_windows("a clock change");
    }
}

/// Heartbeats that were recorded while the clock was ahead have times in the future after the clock is corrected.
#[test]
fn silent_agents_are_detected_after_the_clock_was_set_back() {
    let fleet = Fleet::new();
    fleet.site.sim.jump(3 * HOUR);
    let degraded = Heartbeat { error_rate: 1.0, ..healthy() };
    fleet.site.heartbeat(fleet.online, healthy());
    fleet.site.heartbeat(fleet.degraded, degraded);
    fleet.site.heartbeat(fleet.busy, Heartbeat { active_tasks: 1, ..healthy() });
    fleet.site.sweep();
    fleet.site.sim.jump(-3 * HOUR);
    fleet.assert_full_windows("a clock set back");
}

/// SIGSTOP, a freezer, a debugger or swapping: neither clock jumps, and no request was served.
#[test]
fn liveness_windows_reset_after_a_daemon_freeze() {
    for minutes in [4, 10, 60] {
        let mut fleet = Fleet::new();
        fleet.sweep_for(Duration::from_mins(2));
        fleet.site.freeze(Duration::from_mins(minutes));
        fleet.assert_full_windows("a freeze");
    }
}

/// The clock jumps ahead and back between two clock snapshots, as after a wrong answer of a time server.
#[test]
fn clock_briefly_set_ahead_changes_no_status() {
    let mut fleet = Fleet::new();
    fleet.sweep_for(Duration::from_mins(1));
    fleet.site.sim.jump(3 * HOUR);
    fleet.site.sim.pass(Duration::from_secs(5));
    fleet.site.sim.jump(-3 * HOUR);
    let before = Fleet::before();
    fleet.sweep_for(Duration::from_mins(1));
    assert_eq!(fleet.statuses(), before);
}

/// The clock is set back and corrected between two clock snapshots: times recorded in between appear hours old.
#[test]
fn clock_briefly_set_back_changes_no_status() {
    let site = Installation::new(1, TaskOrder::AsWoken);
    let agent = site.create_online(request("agent", IMAGE));
    for _ in 0..15 {
        site.sim.pass(Duration::from_mins(1));
        site.heartbeat(agent, healthy());
        site.sweep();
    }
    site.sim.jump(-3 * HOUR);
    site.heartbeat(agent, healthy());
    let starting = site.create_started(request("starting", IMAGE));
    site.sim.jump(3 * HOUR);
    site.sweep();
    site.sim.quiesce();
    assert_eq!(site.status(agent), Status::Online, "it changed its status although its heartbeat is recent");
    assert_eq!(site.status(starting), Status::Provisioning, "its start timed out although it is recent");
}

/// A container that exited is restarted after its backoff, not hours later because the clock was set back.
#[test]
fn due_restart_is_not_delayed_by_a_clock_set_back() {
    let fleet = Fleet::new();
    let (site, id) = (&fleet.site, fleet.online);
    let container = site.row(id).container.expect("it has one");
    site.world.state().kill(&container, 1);
    site.snapshot();
    site.snapshot();
    site.run("check_containers");
    assert_eq!(site.status(id), Status::Offline);
    site.sim.jump(-3 * HOUR);
    site.sim.pass(Duration::from_mins(1));
    site.run("restart_due");
    site.sim.quiesce();
    assert_eq!(site.status(id), Status::Provisioning, "it was not restarted when its back-off was over");
}

/// The last activity of a workspace that was just woken is older than its idle limit.
#[test]
fn woken_workspace_hibernates_only_after_its_full_idle_time() {
    let mut fleet = Fleet::new();
    let id = fleet.idle;
    fleet.site.daemon.app.ops.traffic().note(id);
    fleet.site.calmly(|ops| async move { ops.hibernate(id, false).await }).expect("it is hibernated");
    fleet.witness.check(&fleet.site).unwrap();
    fleet.site.sim.pass(Duration::from_mins(30));
    fleet.site.run("hibernate_idle");
    fleet.site.sim.pass(Duration::from_mins(30));
    fleet.site.calmly(|ops| async move { ops.wake(id).await }).expect("it is woken");
    fleet.site.sim.quiesce();
    assert_eq!(fleet.site.status(id), Status::Online);
    fleet.sweep_for(IDLE.saturating_sub(OFTEN * 2));
    assert_eq!(fleet.site.status(id), Status::Online, "it was hibernated before its full idle time");
    fleet.sweep_for(OFTEN * 4);
    assert_eq!(fleet.site.status(id), Status::Hibernated, "it was not hibernated after its full idle time");
}
