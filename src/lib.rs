//! ostler keeps long-lived, containerised agent workspaces on one machine.
//!
//! This page describes the structure of the code. Every module is a layer. It may name only the layers in its row of
//! this table, all of which are below it. `tests/architecture` contains a copy of the table, and checks that the
//! sources and this page agree with that copy.
//!
//! | layer | may name | purpose |
//! |---|---|---|
//! | `main` | `cli`, `daemon`, `telemetry`, `config`, `api` | the binary: parse, run, set the exit code |
//! | `cli` | `api`, `domain` | the command line: talks to the daemon over its socket, in the types of `api` |
//! | `daemon` | `http`, `doctor`, `identity`, `telemetry`, `config`, `api`, `sweep`, `ops`, `store`, `engine`, `listening`, `wake`, `tasks`, `clock`, `entropy`, `domain`, `crash_point` | the composition root: opens, builds, spawns, drains |
//! | `http` | `doctor`, `identity`, `api`, `sweep`, `ops`, `store`, `engine`, `listening`, `tasks`, `clock`, `entropy`, `domain`, `mutation` | the routes |
//! | `doctor` | `identity`, `api`, `sweep`, `store`, `engine`, `clock`, `domain` | checks for problems, with advice |
//! | `identity` | `store`, `clock`, `entropy`, `domain`, `crash_point` | the registry's identity; detects loss and copies |
//! | `telemetry` | `config` | the log |
//! | `config` | `domain` | settings, read and validated into plain values |
//! | `api` | | the types shared by `cli` and `http` |
//! | `sweep` | `ops`, `store`, `engine`, `listening`, `wake`, `tasks`, `clock`, `entropy`, `domain`, `crash_point`, `mutation` | the passes, and the driver that runs them |
//! | `ops` | `store`, `engine`, `wake`, `tasks`, `clock`, `entropy`, `domain`, `crash_point`, `mutation` | the use cases, with one actor for each workspace |
//! | `store` | `tasks`, `clock`, `domain`, `crash_point`, `mutation` | the registry's file: the only user of SQLite |
//! | `engine` | `tasks`, `clock`, `domain`, `mutation` | the container engine: Podman, or a fake with fault injection |
//! | `listening` | `clock`, `domain`, `mutation` | the liveness epoch, in which all missing heartbeats are measured |
//! | `wake` | | requests a pass before its regular time |
//! | `tasks` | `clock` | the only place where tasks are spawned |
//! | `clock` | `domain` | the only clock |
//! | `entropy` | `domain` | the only source of randomness |
//! | `domain` | `mutation` | the rules: plain data and pure functions |
//! | `crash_point` | | places where a test can end the process |
//! | `mutation` | | deliberate defects, which prove that tests detect them |
//!
//! Three rules follow. First, `domain` decides all actions of a sweep, from rows and a container listing, before the
//! first of them is carried out; `sweep` and `ops` carry the actions out and decide nothing. Second, a layer receives
//! everything that is not deterministic as a parameter, so that the simulator can control it: time, randomness, tasks,
//! the engine, and the time at which a transaction takes effect. Third, the store and the engine do not use each other:
//! `ops` keeps them consistent by the order of its steps.

pub mod api;
pub mod cli;
pub mod clock;
pub mod config;
pub mod crash_point;
pub mod daemon;
pub mod doctor;
pub mod domain;
pub mod engine;
pub mod entropy;
pub mod http;
pub mod identity;
pub mod listening;
pub mod mutation;
pub mod ops;
pub mod store;
pub mod sweep;
pub mod tasks;
pub mod telemetry;
pub mod wake;
