//! The HTTP API: turns requests into store queries and operations.
//!
//! `router.rs` contains the whole route table. A handler validates the request, queries the store or runs an operation,
//! and converts the result into the types of `api`; it decides nothing else. Every operation that changes something
//! runs detached from the connection: it is completed even if the client disconnects.

mod auth;
mod body;
mod delegate;
mod error;
mod journal;
pub(crate) mod limits;
mod proxy;
mod refusals;
mod resolve;
mod router;
mod routes;
pub mod server;
mod spec;
mod state;
mod view;
mod vitals;

pub use proxy::dial::{Dial, PipeTo};
pub(crate) use proxy::resolver::is_own_address;
pub use router::router;
pub use state::{Api, ApiParts};
pub(crate) use view::run as run_view;
pub use vitals::{StoreState, Vitals};
