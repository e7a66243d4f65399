//! The digest by which events refer to an agent card.

use sha2::{Digest, Sha256};

/// Payload key that replaces an agent card in events; the card itself is stored once, in `reports`.
pub(super) const CARD_DIGEST: &str = "agent_card_digest";

/// Returns the digest by which events refer to a card: 16 bytes of SHA-256 in hexadecimal.
pub(super) fn card_digest(card: &str) -> String {
    Sha256::digest(card).iter().take(16).fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"))
}
