//! Ports that no other test of this machine uses meanwhile.
//!
//! A test runs in a process of its own or in one with others, so a number that only this process counts up leads two of
//! them to the same ports now and then. A file is locked for as long as a window is in use; the kernel unlocks it when
//! the process ends, however it does.

use std::{
    fs::{self, File},
    net::TcpListener,
    sync::atomic::{AtomicU32, Ordering},
};

use rustix::{
    fs::{FlockOperation, flock},
    process::geteuid,
};

/// How many ports a window has.
const PORTS_EACH: u16 = 20;
const WINDOWS: u16 = 390;
/// Outside the range from which the kernel gives ports away by itself.
const FIRST_PORT: u16 = 21_000;
const FIRST_NETWORK_PORT: u16 = 10_900;

/// How many windows this process has taken.
static TAKEN: AtomicU32 = AtomicU32::new(0);

/// Ports of one site, until this is dropped.
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
                // Others than tests may be there.
                let mut ports = (window.first()..window.first() + PORTS_EACH).chain([window.network()]);
                ports.all(|port| TcpListener::bind(("0.0.0.0", port)).is_ok()).then_some(window)
            })
            .expect("a window of ports is free")
    }

    fn first(&self) -> u16 {
        FIRST_PORT + self.number * PORTS_EACH
    }

    /// Where a site listens for its agents.
    pub(crate) fn network(&self) -> u16 {
        FIRST_NETWORK_PORT + self.number
    }

    /// Those of its containers, as the setting has them.
    pub(crate) fn range(&self) -> String {
        format!("{}-{}", self.first(), self.first() + PORTS_EACH - 1)
    }
}
