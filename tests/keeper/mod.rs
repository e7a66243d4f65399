//! The main functions with the real binary, the real Podman and real containers.

mod breaker;
mod by_hand;
mod exec;
mod lifecycle;
mod reaping;
mod recovery;
mod removal;
mod secrets;
mod tiers;
mod tokens;
mod volumes;
