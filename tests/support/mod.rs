//! Shared test support.

pub(crate) mod cli;
pub(crate) mod daemon;
pub(crate) mod engine_proxy;
pub(crate) mod fake_engine;
pub(crate) mod hasty;
pub(crate) mod http;
pub(crate) mod old_schemas;
pub(crate) mod podman;
pub(crate) mod ports;
pub(crate) mod registry;
pub(crate) mod rng;
pub(crate) mod tables;
pub(crate) mod truth;
pub(crate) mod wire;
pub(crate) mod worst_agent;

/// Panics unless run as root: a skipped test would count as passed.
#[track_caller]
pub(crate) fn assert_root() {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test needs root: it mounts file systems or changes users"
    );
}
