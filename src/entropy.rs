//! The one source of randomness: ids and tokens.

use std::sync::Arc;

use uuid::{Builder, Uuid};

use crate::domain::token::{TOKEN_BYTES, Token};

/// What the character `-` stands for in base64url.
const HYPHEN: u8 = 62;

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
        // A token that begins with a hyphen, and so its shown prefix, would be taken for an option on a command line.
        // Clearing one bit of its first six avoids that; the other 255 stay random.
        if bytes[0] >> 2 == HYPHEN {
            bytes[0] &= 0x7f;
        }
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
    fn token_never_begins_like_an_option() {
        for byte in 0..=u8::MAX {
            let token = Constant(byte).token();
            assert!(!token.expose().starts_with('-'), "made of {byte:#x}: {}", token.prefix());
        }
    }
}
