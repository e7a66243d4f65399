//! Rules of operations and sweeps, each tested by name on the simulator: no Podman and no waiting.

mod breaker;
mod driver;
mod graces;
mod hibernation;
mod idempotence;
mod operations;
mod reboots;
mod starts;
mod windows;
