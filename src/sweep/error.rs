//! Errors of passes.

use crate::{engine::trusted::Untrusted, ops::OpError, store::StoreError};

/// Why a pass could not do its work.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SweepError {
    /// There was no trusted listing.
    #[error(transparent)]
    Untrusted(#[from] Untrusted),
    /// The pass requested a listing, but its [`Pass::requires`](super::Pass::requires) does not declare that it requires one.
    #[error("the pass requires a container listing, but was run without one")]
    NoListing,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An order failed.
    #[error(transparent)]
    Op(#[from] OpError),
}
