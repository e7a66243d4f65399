//! ostler keeps long-lived, containerised agent workspaces on one machine.
//!
//! This page is the plan of the house. Every module is a layer, and a layer names only those its row
//! allows: arrows point down. `tests/house` reads the sources against this table, and the table against
//! its own, so neither can drift.
//!
//! | layer | may name | what it is |
//! |---|---|---|
//! | `main` | `cli`, `daemon`, `telemetry`, `config`, `api` | the thin binary: parse, run, turn a failure into an exit code |
//! | `cli` | `api`, `domain` | the command line: speaks only the contract, over the socket |
//! | `daemon` | `http`, `doctor`, `identity`, `telemetry`, `config`, `api`, `sweep`, `ops`, `store`, `engine`, `listening`, `wake`, `tasks`, `clock`, `entropy`, `domain`, `crash_point` | the composition root: open, build, spawn, drain |
//! | `http` | `doctor`, `identity`, `api`, `sweep`, `ops`, `store`, `engine`, `listening`, `tasks`, `clock`, `entropy`, `domain`, `mutation` | the routes |
//! | `doctor` | `identity`, `api`, `sweep`, `store`, `engine`, `clock`, `domain` | what is wrong, and what to do about it |
//! | `identity` | `store`, `clock`, `entropy`, `domain`, `crash_point` | whose registry this is, and whether it was lost or copied |
//! | `telemetry` | `config` | the log |
//! | `config` | `domain` | settings, read and validated into plain values |
//! | `api` | | the contract between `cli` and `http` |
//! | `sweep` | `ops`, `store`, `engine`, `listening`, `wake`, `tasks`, `clock`, `entropy`, `domain`, `crash_point`, `mutation` | the passes, and what drives them |
//! | `ops` | `store`, `engine`, `wake`, `tasks`, `clock`, `entropy`, `domain`, `crash_point`, `mutation` | the use cases, one actor for each workspace |
//! | `store` | `tasks`, `clock`, `domain`, `crash_point`, `mutation` | the registry's file: the only user of SQLite |
//! | `engine` | `tasks`, `clock`, `domain`, `mutation` | what runs containers: Podman, or a fake with faults |
//! | `listening` | `clock`, `domain`, `mutation` | since when ostler listens: silence is measured in nothing else |
//! | `wake` | | asks for a pass before its turn |
//! | `tasks` | `clock` | the one place where tasks are started |
//! | `clock` | `domain` | the one clock |
//! | `entropy` | `domain` | the one source of randomness |
//! | `domain` | `mutation` | the rules: plain data and pure functions |
//! | `crash_point` | | where a test may end the process |
//! | `mutation` | | rules left out on purpose, for the proof that it would be noticed |
//!
//! Three habits follow from it. What a sweep does is decided in `domain`, from rows and a listing, before
//! anything is done; `sweep` and `ops` carry it out and choose nothing. Whatever is not deterministic
//! (time, randomness, tasks, the engine, the moment a transaction takes effect) is handed in from above,
//! so that the simulator can own it. And the store and the engine know nothing of each other: what both
//! have to agree on is an order of steps in `ops`.

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
