//! Ports that no other test on this machine uses at the same time.
//!
//! Tests may run in separate processes, so a counter in each process could give two tests the same ports. Each window
//! of ports therefore has a lock file, which stays locked while the window is in use. The kernel unlocks it when the
//! process ends, however it ends.

use std::{
    fs::{self, File},
    net::TcpListener,
    sync::atomic::{AtomicU32, Ordering},
};

use rustix::{
    fs::{FlockOperation, flock},
    process::geteuid,
};

/// Number of ports in a window.
const PORTS_EACH: u16 = 20;
const WINDOWS: u16 = 390;
/// Outside the kernel's ephemeral port range.
const FIRST_PORT: u16 = 21_000;
const FIRST_NETWORK_PORT: u16 = 10_900;

/// Number of windows that this process has taken.
static TAKEN: AtomicU32 = AtomicU32::new(0);

/// Ports of one site, reserved until this is dropped.
pub(crate) struct PortWindow {
    number: u16,
    _locked: File,
}

impl PortWindow {
    pub(crate) fn take() -> Self {
        let directory = std::env::temp_dir().join(format!("ostler-test-ports-{}", geteuid().as_raw()));
        fs::create_dir_all(&directory).expect("the directory of locks is made");
        let begin = std::process::id() * 7 + TAKEN.fetch_add(1, Ordering::Relaxed);
        let begin = u16::try_from(begin % u32::from(WINDOWS)).expect("fewer windows than ports");
        (0..WINDOWS)
            .map(|step| (begin + step) % WINDOWS)
            .find_map(|number| {
                let file = File::create(directory.join(number.to_string())).expect("a lock's file is made");
                flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
                let window = Self { number, _locked: file };
                // Programs other than these tests may use ports of the window and do not lock the file.
                let mut ports = (window.first()..window.first() + PORTS_EACH).chain([window.network()]);
                ports.all(|port| TcpListener::bind(("0.0.0.0", port)).is_ok()).then_some(window)
            })
            .expect("a window of ports is free")
    }

    fn first(&self) -> u16 {
        FIRST_PORT + self.number * PORTS_EACH
    }

    /// The port on which a site listens for its agents.
    pub(crate) fn network(&self) -> u16 {
        FIRST_NETWORK_PORT + self.number
    }

    /// Host ports of its containers, in the format of the `ports` setting.
    pub(crate) fn range(&self) -> String {
        format!("{}-{}", self.first(), self.first() + PORTS_EACH - 1)
    }
}
