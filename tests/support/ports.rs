//! Ports that no other test on this machine uses at the same time.
//!
//! Tests may run in separate processes, so a counter in each process could give two tests the same ports. The ports are
//! therefore divided into units, and each unit has a lock file, which stays locked while its ports are in use. The
//! kernel unlocks it when the process ends, however it ends.

use std::{
    fs::{self, File},
    net::TcpListener,
    ops::Range,
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
};

use ostler::domain::ports::PortRange;
use rustix::{
    fs::{FlockOperation, flock},
    process::geteuid,
};

/// Number of ports that one lock file stands for.
const UNIT: u16 = 4;
/// Number of host ports of a site.
const SITE: u16 = 20;

/// Ports on which sites listen for their agents, one for each of [`SITES`].
const NETWORK: Range<u16> = 10_900..11_290;
/// Host ports of campaigns and benchmarks, which need many.
pub(crate) const CAMPAIGNS: Range<u16> = 12_000..20_000;
/// Ports of tests that publish a single one without a lock.
pub(crate) const SINGLE: Range<u16> = 20_000..21_000;
/// Host ports of sites.
const SITES: Range<u16> = 21_000..28_800;
/// Host ports of registries in the test process.
pub(crate) const REGISTRIES: Range<u16> = 29_000..32_700;
/// The kernel's first ephemeral port.
const EPHEMERAL: u16 = 32_768;

// No two kinds of test share a port.
const _: () = {
    let areas = [NETWORK, CAMPAIGNS, SINGLE, SITES, REGISTRIES];
    let mut next = 1;
    while next < areas.len() {
        assert!(areas[next - 1].end <= areas[next].start, "two areas overlap");
        next += 1;
    }
    assert!(areas[next - 1].end <= EPHEMERAL, "the kernel may give these ports to any connection");
    assert!(
        (SITES.end - SITES.start) / SITE == NETWORK.end - NETWORK.start,
        "each site needs a network port"
    );
};

/// Number of ranges that this process has taken.
static TAKEN: AtomicU32 = AtomicU32::new(0);

/// A range of ports, reserved until this is dropped.
pub(crate) struct Ports {
    range: PortRange,
    _locked: Vec<File>,
}

impl Ports {
    /// Reserves this number of free ports.
    pub(crate) fn take(area: &Range<u16>, count: u16) -> Self {
        Self::take_if(area, count, |_| true)
    }

    /// Reserves a range of free ports whose first port is `usable`. Each process, and each caller in it, starts its
    /// search at a different port.
    fn take_if(area: &Range<u16>, count: u16, usable: impl Fn(u16) -> bool) -> Self {
        let directory = std::env::temp_dir().join(format!("ostler-test-ports-{}", geteuid().as_raw()));
        fs::create_dir_all(&directory).expect("the directory of locks is made");
        let each = count.next_multiple_of(UNIT);
        let windows = (area.end - area.start) / each;
        let begin = std::process::id() * 7 + TAKEN.fetch_add(1, Ordering::Relaxed);
        let begin = u16::try_from(begin % u32::from(windows)).expect("fewer windows than ports");
        (0..windows)
            .map(|step| area.start + (begin + step) % windows * each)
            .find_map(|first| {
                let units = (first..first + each).step_by(usize::from(UNIT));
                let locked = units.map(|unit| lock(&directory, unit)).collect::<Option<_>>()?;
                let range = PortRange { first, last: first + count - 1 };
                // Programs other than these tests may use ports of the range and do not lock the files.
                let is_free = (range.first..=range.last).all(is_free) && usable(first);
                is_free.then_some(Self { range, _locked: locked })
            })
            .expect("a range of ports is free")
    }

    pub(crate) fn range(&self) -> PortRange {
        self.range
    }
}

/// Locks the unit that begins with this port; `None` if it is in use.
fn lock(directory: &Path, first: u16) -> Option<File> {
    let file = File::create(directory.join(first.to_string())).expect("a lock's file is made");
    flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
    Some(file)
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(("0.0.0.0", port)).is_ok()
}

/// Ports of one site, reserved until this is dropped.
pub(crate) struct PortWindow(Ports);

impl PortWindow {
    pub(crate) fn take() -> Self {
        Self(Ports::take_if(&SITES, SITE, |first| is_free(network(first))))
    }

    /// The port on which a site listens for its agents.
    pub(crate) fn network(&self) -> u16 {
        network(self.0.range.first)
    }

    /// Host ports of its containers, in the format of the `ports` setting.
    pub(crate) fn range(&self) -> String {
        self.0.range.to_string()
    }
}

/// The network port of the site whose host ports begin with this one.
fn network(first: u16) -> u16 {
    NETWORK.start + (first - SITES.start) / SITE
}
