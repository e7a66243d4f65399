//! ostler keeps long-lived, containerised agent workspaces on one machine.
//!
//! This page describes the structure of the code. Every module is a layer. It may name only the layers in its row of
//! this table, all of which are below it. `tests/architecture` contains a copy of the table, and checks that the
//! sources and this page agree with that copy.
//!
//! | layer | may name | purpose |
//! |---|---|---|
//! | `main` | `cli`, `daemon`, `telemetry`, `config`, `api` | the binary: parse, run, set the exit code |
//! | `cli` | `api`, `domain`, `unix_http` | the command line: talks to the daemon over its socket, in the types of `api` |
//! | `daemon` | `app`, `http`, `doctor`, `registry`, `telemetry`, `config`, `api`, `sweep`, `ops`, `store`, `engine`, `runtime`, `domain`, `testing` | the process: opens, locks, spawns, drains; the commands that need no daemon |
//! | `app` | `http`, `doctor`, `sweep`, `ops`, `store`, `engine`, `runtime`, `domain` | the only composition root: daemon, tests, benchmarks and simulator build the same app from different parts |
//! | `http` | `doctor`, `registry`, `api`, `sweep`, `ops`, `store`, `engine`, `runtime`, `domain`, `testing`, `spec_fields` | the routes |
//! | `doctor` | `registry`, `api`, `sweep`, `store`, `engine`, `runtime`, `domain` | checks for problems, with advice |
//! | `registry` | `store`, `runtime`, `domain`, `testing` | the registry's identity and locks; detects loss and copies |
//! | `telemetry` | `config` | the log |
//! | `config` | `domain` | settings, read and validated into plain values |
//! | `api` | `spec_fields` | the types shared by `cli` and `http` |
//! | `sweep` | `ops`, `store`, `engine`, `runtime`, `domain`, `testing` | the passes, and the driver that runs them |
//! | `ops` | `store`, `engine`, `runtime`, `domain`, `testing` | the use cases: durable operations, and one actor for each workspace |
//! | `store` | `runtime`, `domain`, `testing` | the registry's file: the only user of SQLite |
//! | `engine` | `runtime`, `domain`, `testing`, `unix_http` | the container engine: its trait, and Podman |
//! | `runtime` | `domain`, `testing` | everything that is not deterministic: clock, liveness epoch, randomness, tasks, wake-ups |
//! | `domain` | `testing`, `spec_fields` | plain data and pure functions |
//! | `testing` | | crash points and deliberate defects, which are empty in a shipped build |
//! | `spec_fields` | | the table of the fields of a workspace's spec |
//! | `unix_http` | | one HTTP exchange over a unix socket |
//!
//! Three rules follow. First, all actions of a sweep are decided by a pure function, from rows and a container listing,
//! before the first of them is carried out. Each pass has that function in its file; the rest of `sweep`, and `ops`,
//! carry the actions out and decide nothing. Second, a layer receives everything that is not deterministic as a
//! parameter, so that the simulator can control it: time, randomness, tasks, the engine, and the time at which a
//! transaction takes effect. Third, the store and the engine do not use each other: `ops` keeps them consistent by the
//! order of its steps.

pub mod api;
pub mod app;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod doctor;
pub mod domain;
pub mod engine;
pub mod http;
pub mod ops;
pub mod registry;
pub mod runtime;
mod spec_fields;
pub mod store;
pub mod sweep;
pub mod telemetry;
pub mod testing;
mod unix_http;
