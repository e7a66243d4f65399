//! Rules of orders and sweeps that deserve a name, on the simulator's house: no Podman, no waiting.

mod breaker;
mod driver;
mod graces;
mod idempotence;
mod reboots;
mod sleep;
mod starts;
mod windows;
