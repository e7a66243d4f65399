//! Tests of ostler's main functions, with the real binary, the real Podman and real containers.

mod breaker;
mod exec;
mod lifecycle;
mod manual_changes;
mod reaping;
mod recovery;
mod removal;
mod secrets;
mod tiers;
mod tokens;
mod volumes;
