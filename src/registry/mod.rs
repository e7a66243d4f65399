//! The registry as a whole: its identity and its locks.

pub mod identity;
