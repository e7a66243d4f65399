//! What tests share.
pub(crate) mod cli;
