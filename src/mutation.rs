//! Deliberate breakages, each a rule left out: what proves that the simulator would notice.
//!
//! Only builds with the feature `assurance` have them. In every other [`is`] is `false`, and the compiler
//! removes what it guards. One is in force on one thread: the simulator plays a life on a thread of its own.

/// A rule that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mutation {
    /// The age of a token is left out of the UPDATE that revokes it.
    RevokeWithoutAge,
}

impl Mutation {
    /// All, and what each leaves out.
    pub const ALL: &[(Self, &str)] =
        &[(Self::RevokeWithoutAge, "the age of a token is left out of the UPDATE that revokes it")];
}

/// Whether this breakage is in force on this thread.
#[cfg(not(feature = "assurance"))]
#[must_use]
#[inline]
pub const fn is(_mutation: Mutation) -> bool {
    false
}

#[cfg(feature = "assurance")]
mod in_force {
    use std::cell::Cell;

    use super::Mutation;

    thread_local! {
        static IN_FORCE: Cell<Option<Mutation>> = const { Cell::new(None) };
    }

    /// Whether this breakage is in force on this thread.
    #[must_use]
    pub fn is(mutation: Mutation) -> bool {
        IN_FORCE.get() == Some(mutation)
    }

    /// Puts a breakage in force on this thread, or none.
    pub fn put_in_force(mutation: Option<Mutation>) {
        IN_FORCE.set(mutation);
    }
}

#[cfg(feature = "assurance")]
pub use in_force::{is, put_in_force};
