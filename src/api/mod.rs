//! Request and response bodies, shared by the CLI and the HTTP server.
//!
//! These types define the JSON of `--json` and of the admin routes. They are plain data with public fields; ids and
//! times are text. They depend on no type of another layer. Fields are never renamed or removed; snapshot tests check this.

pub mod activity;
pub mod adoption;
pub mod configuration;
pub mod doctor;
pub mod error;
pub mod event;
pub mod exec;
pub mod health;
pub mod operation;
pub mod order;
pub mod peer;
pub mod spec;
pub mod sweep;
pub mod token;
pub mod trash;
pub mod workspace;
