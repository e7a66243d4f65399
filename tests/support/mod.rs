//! What the tests share.

pub(crate) mod cli;
pub(crate) mod daemon;
pub(crate) mod engine_proxy;
pub(crate) mod hasty;
pub(crate) mod http;
pub(crate) mod old_schemas;
pub(crate) mod podman;
pub(crate) mod registry;
pub(crate) mod rng;
pub(crate) mod tables;
pub(crate) mod truth;
pub(crate) mod wire;
pub(crate) mod worst_agent;
