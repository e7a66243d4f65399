//! Deliberate breakages, each a rule left out: what proves that the simulator would notice.
//!
//! Only builds with the feature `assurance` have them; in every other, [`is`] is `false` and the compiler
//! removes what it guards.

/// Whether this breakage is in force on this thread.
#[cfg(not(feature = "assurance"))]
#[must_use]
pub const fn is(_name: &'static str) -> bool {
    false
}
