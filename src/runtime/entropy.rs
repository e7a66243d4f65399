//! The only source of randomness: ids and tokens.

use std::sync::Arc;

use uuid::{Builder, Uuid};

use crate::domain::token::{TOKEN_BYTES, Token};

/// Value of the character `-` in base64url.
const HYPHEN: u8 = 62;

/// Source of random bytes.
pub trait Entropy: Send + Sync {
    /// Fills the buffer with random bytes.
    fn fill(&self, bytes: &mut [u8]);

    /// Creates a version 4 UUID.
    fn uuid(&self) -> Uuid {
        let mut bytes = [0; 16];
        self.fill(&mut bytes);
        Builder::from_random_bytes(bytes).into_uuid()
    }

    /// Creates a new token.
    fn token(&self) -> Token {
        let mut bytes = [0; TOKEN_BYTES];
        self.fill(&mut bytes);
        // On a command line, a token or a token's displayed prefix would be parsed as an option if it began with a
        // hyphen. The first character encodes the first six bits. If they encode a hyphen, the first bit is cleared;
        // the other 255 bits stay random.
        if bytes[0] >> 2 == HYPHEN {
            bytes[0] &= 0x7f;
        }
        Token::from_random(bytes)
    }
}

/// A shared source of randomness.
pub type SharedEntropy = Arc<dyn Entropy>;

/// The operating system's source of randomness.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    #[expect(clippy::disallowed_methods, clippy::expect_used, reason = "the only source of randomness")]
    fn fill(&self, bytes: &mut [u8]) {
        // Without randomness from the kernel no token would be safe: panic instead of issuing one.
        getrandom::fill(bytes).expect("the operating system provides random bytes");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Constant(u8);

    impl Entropy for Constant {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill(self.0);
        }
    }

    #[test]
    fn generated_token_never_starts_with_a_hyphen() {
        for byte in 0..=u8::MAX {
            let token = Constant(byte).token();
            assert!(!token.expose().starts_with('-'), "generated from {byte:#x}: {}", token.prefix());
        }
    }
}
