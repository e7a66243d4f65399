//! The registry as a whole: its identity and its locks.

mod error;
pub mod identity;
mod lock;

pub use error::IdentityError;
pub use lock::Lock;
