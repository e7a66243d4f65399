//! The one source of randomness: ids and tokens.

use std::sync::Arc;

use uuid::{Builder, Uuid};

use crate::domain::token::{TOKEN_BYTES, Token};

/// Gives random bytes.
pub trait Entropy: Send + Sync {
    /// Fills the buffer.
    fn fill(&self, bytes: &mut [u8]);

    /// A version 4 UUID.
    fn uuid(&self) -> Uuid {
        let mut bytes = [0; 16];
        self.fill(&mut bytes);
        Builder::from_random_bytes(bytes).into_uuid()
    }

    /// A token nobody has had before.
    fn token(&self) -> Token {
        let mut bytes = [0; TOKEN_BYTES];
        self.fill(&mut bytes);
        Token::from_random(bytes)
    }
}

/// Randomness everybody shares.
pub type SharedEntropy = Arc<dyn Entropy>;

/// The operating system's.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    #[expect(clippy::disallowed_methods, clippy::expect_used, reason = "the one source of randomness")]
    fn fill(&self, bytes: &mut [u8]) {
        // A kernel without randomness cannot issue a token that anybody should trust: better to end here.
        getrandom::fill(bytes).expect("the operating system gives random bytes");
    }
}
