//! After a reboot every workspace that ran is restarted: at once, parents before children, only a few at the same time,
//! and without charge to the restart budget.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use ostler::{
    domain::{ids::WorkspaceId, spec::SpecPatch, status::Status, time::Timestamp},
    store::{PatchResult, WorkspacePatch},
};

use super::driver::{driven, online};
use crate::{
    simulation::installation::{Installation, now_or_panic},
    support::fake_engine::Fault,
};

/// Limit of concurrent starts.
const CONCURRENT_STARTS: usize = 2;
/// Duration of each container start.
const START: Duration = Duration::from_secs(2);

fn set_parent(site: &Installation, child: WorkspaceId, parent: WorkspaceId) {
    let patch = WorkspacePatch {
        spec: SpecPatch { parent: Some(Some(parent)), ..SpecPatch::default() },
        ..WorkspacePatch::default()
    };
    let patched = now_or_panic(site.reader.patch_workspace(child, patch, site.sim.now()));
    assert!(matches!(patched, Ok(PatchResult::Patched(_))), "{patched:?}");
}

/// Makes starts slow from now on; returns a record of the time at which each start began.
fn slow_starts(site: &Installation) -> Arc<Mutex<Vec<(String, Timestamp)>>> {
    let starts = Arc::new(Mutex::new(Vec::new()));
    let (recorded, sim) = (Arc::clone(&starts), site.sim.clone());
    site.world.inject(move |call| {
        if call.method != "start_container" {
            return Fault::None;
        }
        recorded.lock().unwrap().push((call.object.clone(), sim.now()));
        Fault::Slow(START)
    });
    starts
}

#[test]
fn reboot_restarts_every_workspace_without_backoff() {
    let mut site = driven();
    let ids: Vec<_> = (0..8).map(|number| online(&site, &format!("w{number}"))).collect();
    let starts = slow_starts(&site);
    site.sim.pass(Duration::from_secs(17));
    assert_eq!(site.reboot().len(), ids.len());
    site.watch();
    let begun = site.sim.now();
    site.sim.pass(START * 4 + Duration::from_secs(1));
    let times: Vec<_> = starts.lock().unwrap().iter().map(|(_, at)| *at).collect();
    assert_eq!(
        times.len(),
        ids.len(),
        "not each workspace was started exactly once, without a back-off: {times:?}"
    );
    assert!(times[0].since(begun) <= Duration::from_millis(500), "the first start did not begin at once");
    for pair in times.windows(CONCURRENT_STARTS + 1) {
        assert!(
            pair[CONCURRENT_STARTS].since(pair[0]) >= START,
            "more than {CONCURRENT_STARTS} starts at the same time: {times:?}"
        );
    }
    site.sim.pass(Duration::from_secs(4));
    for id in ids {
        assert_eq!(site.status(id), Status::Online);
    }
}

#[test]
fn reboots_are_not_charged_to_the_restart_budget() {
    let mut site = driven();
    let id = online(&site, "w");
    for reboot in 1..=7 {
        site.reboot();
        site.watch();
        site.sim.pass(Duration::from_secs(5));
        assert_eq!(site.status(id), Status::Online, "after reboot {reboot}");
    }
    let container = site.row(id).container.expect("it has one");
    site.world.state().kill(&container, 1);
    site.sim.pass(Duration::from_secs(1));
    let row = site.row(id);
    let wait = row.restart_due_at.map(|due| due.since(row.status_since));
    assert_eq!(wait, Some(Duration::from_secs(10)), "the first charged exit did not get the first back-off");
}

#[test]
fn exit_while_the_daemon_is_down_is_not_charged() {
    let mut site = driven();
    let id = online(&site, "w");
    site.sim.crash(|_| true);
    let container = site.row(id).container.expect("it has one");
    site.world.state().kill(&container, 1);
    site.sim.pass(Duration::from_mins(1));
    site.start_daemon();
    site.watch();
    site.sim.pass(Duration::from_secs(5));
    assert_eq!(site.status(id), Status::Online);
    let events = now_or_panic(site.reader.newest_events(Some(id), 50)).expect("the store answers");
    let offline = events.iter().find(|event| event.event_type == "WORKSPACE_OFFLINE");
    let offline = offline.expect("its exit is reported");
    assert_eq!(offline.payload["while_daemon_down"], true, "{}", offline.payload);
}

/// The ids of children may be lower or higher than their parents', depending on the seed; only the tree determines the
/// order.
#[test]
fn reboot_starts_parents_before_their_children() {
    let mut site = driven();
    let ids: Vec<_> = (0..9).map(|number| online(&site, &format!("w{number}"))).collect();
    // 8 above 6 and 7, 6 above 3 and 4, 7 above 5; 0, 1 and 2 below 3, 4 and 5.
    let tree = [(6, 8), (7, 8), (3, 6), (4, 6), (5, 7), (0, 3), (1, 4), (2, 5)];
    for (child, parent) in tree {
        set_parent(&site, ids[child], ids[parent]);
    }
    let starts = slow_starts(&site);
    site.reboot();
    site.watch();
    site.sim.pass(START * 9);
    let starts = starts.lock().unwrap();
    let began = |number: usize| {
        let container = site.row(ids[number]).container.expect("it has one");
        let found = starts.iter().find(|(of, _)| *of == container.as_str());
        found.unwrap_or_else(|| panic!("w{number} was not started: {starts:?}")).1
    };
    for (child, parent) in tree {
        assert!(
            began(child).since(began(parent)) >= START,
            "w{child} was started at {}, before the start of its parent w{parent}, begun at {}, was complete",
            began(child),
            began(parent)
        );
    }
}
