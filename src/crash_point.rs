//! Places between two durable steps, each with a name, where a test ends the process at once.
//!
//! Only builds with the feature `assurance` have them; in every other, [`reach`] is nothing at all.

/// The process has come to the place of this name.
#[cfg(not(feature = "assurance"))]
pub const fn reach(_name: &'static str) {}

/// The process has come to the place of this name.
#[cfg(feature = "assurance")]
pub fn reach(_name: &'static str) {}
