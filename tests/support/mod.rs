//! What the tests share.

pub(crate) mod cli;
pub(crate) mod daemon;
pub(crate) mod engine_proxy;
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

/// Fails where this is not root. A test that went by without it would be counted as one that had tried.
#[track_caller]
pub(crate) fn assert_root() {
    assert!(rustix::process::geteuid().is_root(), "this test takes root: it mounts, or changes users");
}
