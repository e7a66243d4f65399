//! Kinds and frequencies of faults in a scenario.

use std::time::Duration;

use ostler::engine::ErrorKind;

use super::installation::{AGENTS, OPS, SWEEPS};
use crate::support::{
    fake_engine::{Call, EventFault, Fault},
    rng::Rng,
};

/// Parameters of a scenario. Scenarios with fewer kinds of faults reach deeper states. Numbers are per thousand steps
/// or calls.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is an independent choice")]
pub(super) struct Parameters {
    /// Maximum number of workspaces that it creates.
    pub(super) workspaces: usize,
    /// Engine calls that fail.
    pub(super) faults: usize,
    /// Steps that are a crash.
    pub(super) crashes: usize,
    /// Additional steps in which a container is killed.
    pub(super) deaths: usize,
    /// Steps in which the disk becomes full, or has space again.
    pub(super) full_disks: usize,
    /// Steps in which the engine's socket points to another engine, or back.
    pub(super) detours: usize,
    /// Whether agents never send anything.
    pub(super) silent_agents: bool,
    /// Whether the driver runs the passes; otherwise steps chosen by the seed run them.
    pub(super) driven: bool,
    /// Whether a second installation uses the same engine.
    pub(super) neighbour: bool,
    /// Whether work volumes may be deleted at the engine.
    pub(super) work_deletions: bool,
    /// The side whose effects are mostly carried out only after those of all other sides, so that it loses races.
    pub(super) slow_side: Option<u8>,
}

impl Parameters {
    pub(super) fn of(rng: &mut Rng) -> Self {
        Self {
            workspaces: rng.pick(&[1, 1, 2, 3, 6, 9]),
            faults: rng.pick(&[0, 30, 100]),
            crashes: rng.pick(&[0, 5, 20]),
            deaths: rng.pick(&[0, 0, 60]),
            full_disks: rng.pick(&[0, 0, 0, 15]),
            detours: rng.pick(&[0, 0, 0, 15]),
            silent_agents: rng.permille(200),
            driven: rng.permille(150),
            neighbour: rng.permille(100),
            work_deletions: rng.permille(200),
            slow_side: rng.pick(&[None, None, None, Some(OPS), Some(SWEEPS), Some(AGENTS)]),
        }
    }
}

/// Longest delay of an answer whose effect was immediate.
pub(super) const LATEST_ANSWER: Duration = Duration::from_secs(50);

/// Chooses the fault of an engine call. Errors that state a fact (absent, conflict, no such image) are never injected:
/// an engine that reports false facts is out of scope.
pub(super) fn of_call(rng: &mut Rng, call: &Call) -> Fault {
    const FAILURES: [ErrorKind; 3] = [ErrorKind::Unreachable, ErrorKind::Other, ErrorKind::TimedOut];
    let kind = rng.pick(&FAILURES);
    let wait = Duration::from_millis(rng.below(300_000) as u64);
    // ostler cannot detect a file write that takes effect minutes after its caller gave up, when a later start is
    // already complete: see the limits in the documentation of `ops/start/mod.rs`.
    let may_be_late = call.method != "write_file";
    match rng.below(100) {
        _ if call.method == "write_file" && rng.permille(300) => Fault::Pretended,
        0..20 => Fault::Before(kind),
        20..40 => Fault::After(kind),
        40..55 => Fault::Slow(wait / 6),
        55..70 => Fault::Stale(wait / 6),
        70..90 if may_be_late => Fault::Late(wait),
        90..95 => Fault::Lost,
        95.. if call.method == "start_container" => Fault::HalfWay,
        _ => Fault::None,
    }
}

/// Name of a fault, for counters.
pub(super) fn name_of(fault: &Fault) -> Option<&'static str> {
    Some(match fault {
        Fault::None => return None,
        Fault::Before(_) => "engine call failed before it took effect",
        Fault::After(_) => "engine call failed after it took effect",
        Fault::Slow(_) => "engine call was slow",
        Fault::Stale(_) => "engine answered late, with an earlier state",
        Fault::Partial(0) => "listing was empty",
        Fault::Partial(_) => "listing was partial",
        Fault::Late(_) => "engine call took effect after it was given up",
        Fault::Lost => "engine call was never answered",
        Fault::HalfWay => "a start failed half-way",
        Fault::Pretended => "a file write was reported and did not happen",
    })
}

pub(super) fn of_event(rng: &mut Rng) -> EventFault {
    match rng.below(10) {
        0..4 => EventFault::Lost,
        4..6 => EventFault::Twice,
        6..9 => EventFault::Late(Duration::from_millis(rng.below(120_000) as u64)),
        _ => EventFault::End(rng.permille(500).then_some(ErrorKind::Unreachable)),
    }
}

/// Name of an event fault, for counters.
pub(super) fn name_of_event(fault: EventFault) -> Option<&'static str> {
    Some(match fault {
        EventFault::None => return None,
        EventFault::Lost => "event was lost",
        EventFault::Twice => "event was delivered twice",
        EventFault::Late(_) => "event was delivered late and out of order",
        EventFault::End(_) => "event stream ended",
    })
}
