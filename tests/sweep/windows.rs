//! The liveness windows reset after a suspend, a stop of the daemon or a change of the clock: nothing is marked before
//! a full window has passed since then, and afterwards agents that are still silent are marked.

use std::time::Duration;

use ostler::{
    domain::{
        heartbeat::Heartbeat,
        ids::WorkspaceId,
        liveness::{RESTART_SILENT_AFTER, SILENT_AFTER, WEDGED_AFTER},
        runtime::Runtime,
        status::{Failure, Status},
        workspace::Policy,
    },
    ops::CreateRequest,
    store::{Registration, ReportResult, TokenSubject},
};

use crate::simulation::{
    executor::TaskOrder,
    installation::{IMAGE, Installation, now_or_panic, request, well},
    invariants::Witness,
};

const HOUR: i64 = 3_600_000;
/// Interval of the passes.
const OFTEN: Duration = Duration::from_secs(20);
/// Idle time before a workspace with a hibernation policy hibernates.
const IDLE: Duration = Duration::from_mins(7);

/// One workspace for every kind of liveness window.
struct Household {
    installation: Installation,
    witness: Witness,
    online: WorkspaceId,
    degraded: WorkspaceId,
    busy: WorkspaceId,
    idle: WorkspaceId,
    starting: WorkspaceId,
    external: WorkspaceId,
}

impl Household {
    fn new() -> Self {
        let installation = Installation::new(1, TaskOrder::AsWoken);
        let witness = Witness::of(&installation);
        let online = installation.create_online(request("online", IMAGE));
        let degraded = installation.create_online(request("degraded", IMAGE));
        installation.heartbeat(degraded, Heartbeat { error_rate: 1.0, ..well() });
        let busy = installation.create_online(request("busy", IMAGE));
        installation.heartbeat(busy, Heartbeat { active_tasks: 1, ..well() });
        let minutes = u32::try_from(IDLE.as_secs() / 60).unwrap();
        let policy = Policy { hibernation_idle_minutes: Some(minutes), ..Policy::default() };
        // With a runtime that sends no heartbeats; otherwise it would be marked as silent first.
        let made = CreateRequest { policy, ..request("idle", IMAGE) };
        let idle = installation.calmly(|ops| async move { ops.create(made).await }).unwrap().id;
        installation.sim.quiesce();
        let starting = installation.create_started(request("starting", IMAGE));
        let made = CreateRequest { external: true, ..request("external", "") };
        let made = installation.calmly(|ops| async move { ops.create(made).await }).unwrap();
        let digest = made.token.expect("an external one is given a token").digest();
        let Some(TokenSubject::Workspace(token_owner)) =
            installation.eye.token_subject(&digest, installation.sim.now())
        else {
            panic!("its token is good")
        };
        let registration = Registration { card: Some(serde_json::json!({})), ..Registration::default() };
        let create_online = now_or_panic(installation.eye.record_registration(
            token_owner,
            registration,
            installation.sim.now(),
        ))
        .unwrap();
        assert_eq!(create_online, ReportResult::Noted);
        let household =
            Self { installation, witness, online, degraded, busy, idle, starting, external: made.id };
        assert_eq!(household.statuses(), Self::before());
        household
    }

    fn before() -> Vec<Status> {
        use Status::{Degraded, Online, Provisioning};
        vec![Online, Degraded, Online, Online, Provisioning, Online]
    }

    fn statuses(&self) -> Vec<Status> {
        let all = [self.online, self.degraded, self.busy, self.idle, self.starting, self.external];
        all.map(|id| self.installation.status(id)).to_vec()
    }

    fn restarts(&self, id: WorkspaceId) -> u32 {
        self.installation.row(id).incarnation.0
    }

    /// Runs the passes for this time, without any heartbeat.
    fn sweep_for(&mut self, time: Duration) {
        let until = self.installation.sim.now() + time;
        while self.installation.sim.now() < until {
            self.installation.sweep();
            self.installation.sim.quiesce();
            self.witness.check(&self.installation).unwrap();
            self.installation.sim.pass(OFTEN.min(until.since(self.installation.sim.now())));
        }
    }

    /// Asserts that nothing changes for a full window from now on, and that everything changes afterwards.
    fn return_and_wait(mut self, how: &str) {
        let wedged = |household: &Self| {
            let row = now_or_panic(household.installation.eye.describe(household.busy)).unwrap();
            row.expect("there is such a row").vitals.wedged_since
        };
        let before = Self::before();
        self.sweep_for(SILENT_AFTER.saturating_sub(Duration::from_secs(1)));
        assert_eq!(self.statuses(), before, "{how}: somebody was blamed before a window had passed");
        let moved = |at: usize| self.statuses()[at];
        assert_eq!(moved(0), Status::Online);
        self.sweep_for(OFTEN * 3);
        let now = self.statuses();
        assert_eq!(now[0], Status::Degraded, "{how}: it is silent for a whole window");
        assert_eq!(now[5], Status::AwaitingAgent, "{how}: it is silent for a whole window");
        assert_eq!((now[3], now[4]), (before[3], before[4]), "{how}: their windows are longer");
        assert_eq!(wedged(&self), None, "{how}: its window is longer");
        self.sweep_for(WEDGED_AFTER.saturating_sub(SILENT_AFTER));
        assert!(wedged(&self).is_some(), "{how}: nothing came of it for a whole window");
        assert_eq!(self.statuses()[3], Status::Online, "{how}: its window is longer");
        self.sweep_for(IDLE.saturating_sub(WEDGED_AFTER));
        assert_eq!(self.statuses()[3], Status::Hibernated, "{how}: it was idle for a whole window");
        let limit = Runtime::agent().provisioning_limit;
        assert_eq!(self.statuses()[4], Status::Provisioning, "{how}: its window is longer");
        self.sweep_for(limit.saturating_sub(IDLE + OFTEN * 4));
        assert_eq!(self.statuses()[4], Status::Provisioning, "{how}: its window is longer");
        assert_eq!(self.restarts(self.degraded), 1, "{how}: its window is longer");
        self.sweep_for(OFTEN * 6);
        let late = Status::Failed(Failure::ProvisionTimeout);
        assert_eq!(self.statuses()[4], late, "{how}: it was not heard for a whole window");
        self.sweep_for((SILENT_AFTER + RESTART_SILENT_AFTER).saturating_sub(limit));
        assert_eq!(
            self.restarts(self.degraded),
            2,
            "{how}: it was silent for long enough to be started anew"
        );
    }
}

#[test]
fn liveness_windows_reset_after_suspend() {
    for hours in [1, 9] {
        let household = Household::new();
        household.installation.sim.pass(Duration::from_mins(2));
        household.installation.sim.jump(hours * HOUR);
        household.return_and_wait("a suspend");
    }
}

#[test]
fn liveness_windows_reset_after_a_daemon_stop() {
    let mut household = Household::new();
    household.installation.sim.crash(|_| false);
    household.installation.sim.pass(Duration::from_hours(5));
    household.installation.start_daemon();
    // The interrupted start begins again, which is no consequence of silence.
    household.return_and_wait("a stop of the daemon");
}

#[test]
fn liveness_windows_reset_after_a_clock_change() {
    for hours in [3, -3] {
        let mut household = Household::new();
        household.sweep_for(Duration::from_mins(2));
        household.installation.sim.jump(hours * HOUR);
        household.return_and_wait("a clock that was set");
    }
}

/// Heartbeats recorded while the clock was ahead lie in the future once the clock is correct.
#[test]
fn silent_agents_are_detected_after_the_clock_was_set_back() {
    let household = Household::new();
    household.installation.sim.jump(3 * HOUR);
    let degraded = Heartbeat { error_rate: 1.0, ..well() };
    household.installation.heartbeat(household.online, well());
    household.installation.heartbeat(household.degraded, degraded);
    household.installation.heartbeat(household.busy, Heartbeat { active_tasks: 1, ..well() });
    household.installation.sweep();
    household.installation.sim.jump(-3 * HOUR);
    household.return_and_wait("a clock that was set back");
}

/// SIGSTOP, a freezer, a debugger or swapping: neither clock jumps, and no request was served.
#[test]
fn liveness_windows_reset_after_a_daemon_freeze() {
    for minutes in [4, 10, 60] {
        let mut household = Household::new();
        household.sweep_for(Duration::from_mins(2));
        household.installation.freeze(Duration::from_mins(minutes));
        household.return_and_wait("a freeze");
    }
}

/// The clock jumps ahead and back between two clock snapshots, as after a wrong answer of a time server.
#[test]
fn clock_briefly_set_ahead_changes_no_status() {
    let mut household = Household::new();
    household.sweep_for(Duration::from_mins(1));
    household.installation.sim.jump(3 * HOUR);
    household.installation.sim.pass(Duration::from_secs(5));
    household.installation.sim.jump(-3 * HOUR);
    let before = Household::before();
    household.sweep_for(Duration::from_mins(1));
    assert_eq!(household.statuses(), before);
}

/// The clock is set back and corrected between two clock snapshots: times recorded meanwhile are hours old.
#[test]
fn clock_briefly_set_back_changes_no_status() {
    let installation = Installation::new(1, TaskOrder::AsWoken);
    let create_online = installation.create_online(request("heard", IMAGE));
    for _ in 0..15 {
        installation.sim.pass(Duration::from_mins(1));
        installation.heartbeat(create_online, well());
        installation.sweep();
    }
    installation.sim.jump(-3 * HOUR);
    installation.heartbeat(create_online, well());
    let starting = installation.create_started(request("starting", IMAGE));
    installation.sim.jump(3 * HOUR);
    installation.sweep();
    installation.sim.quiesce();
    assert_eq!(installation.status(create_online), Status::Online, "it spoke a moment ago");
    assert_eq!(installation.status(starting), Status::Provisioning, "it was started a moment ago");
}

/// A container that exited is restarted after its backoff, not hours later because the clock was set back.
#[test]
fn due_restart_is_not_delayed_by_a_clock_set_back() {
    let household = Household::new();
    let (installation, id) = (&household.installation, household.online);
    let container = installation.row(id).container.expect("it has one");
    installation.world.state().kill(&container, 1);
    installation.snapshot();
    installation.snapshot();
    installation.run("check_containers");
    assert_eq!(installation.status(id), Status::Offline);
    installation.sim.jump(-3 * HOUR);
    installation.sim.pass(Duration::from_mins(1));
    installation.run("restart_due");
    installation.sim.quiesce();
    assert_eq!(installation.status(id), Status::Provisioning, "its wait is long over");
}

/// By its last activity, a workspace that is woken has been idle all night.
#[test]
fn woken_workspace_hibernates_only_after_its_full_idle_time() {
    let mut household = Household::new();
    let id = household.idle;
    household.installation.daemon.ops.traffic().note(id);
    household.installation.calmly(|ops| async move { ops.hibernate(id, false).await }).expect("it sleeps");
    household.witness.check(&household.installation).unwrap();
    household.installation.sim.pass(Duration::from_mins(30));
    household.installation.run("hibernate_idle");
    household.installation.sim.pass(Duration::from_mins(30));
    household.installation.calmly(|ops| async move { ops.wake(id).await }).expect("it is woken");
    household.installation.sim.quiesce();
    assert_eq!(household.installation.status(id), Status::Online);
    household.sweep_for(IDLE.saturating_sub(OFTEN * 2));
    assert_eq!(household.installation.status(id), Status::Online, "it was woken for nothing");
    household.sweep_for(OFTEN * 4);
    assert_eq!(household.installation.status(id), Status::Hibernated, "nothing happened there after all");
}
