//! ostler keeps long-lived, containerised agent workspaces on one machine.
#![allow(missing_docs, reason = "being built")]
pub mod api;
pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod doctor;
pub mod domain;
pub mod engine;
pub mod entropy;
pub mod http;
pub mod identity;
pub mod ops;
pub mod store;
pub mod sweep;
pub mod tasks;
pub mod telemetry;
