//! Hooks for the campaigns of `tests/assurance`. Without the feature `assurance` they are empty.

pub mod crash_point;
pub mod mutation;
