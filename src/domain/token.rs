//! Bearer tokens: the secret, its digest and its row.
//!
//! The secret exists in memory only while it is issued and delivered to its owner. The database contains only its
//! SHA-256 digest and its first characters, so a copy of the database or of the log does not allow access. A slow hash,
//! as for passwords, is not needed, because 32 random bytes cannot be guessed.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    ids::{Incarnation, TokenId, WorkspaceId},
    time::Timestamp,
};

/// Number of random bytes in a token (wire protocol, §3).
pub const TOKEN_BYTES: usize = 32;
/// Number of characters at the start of a token that may be shown, so that users can distinguish tokens.
pub const PREFIX_CHARS: usize = 8;

/// A token in clear text. Its `Debug` output is `[redacted]`; it is wiped from memory when dropped.
#[derive(Clone)]
pub struct Token(SecretString);

impl Token {
    /// Encodes random bytes as base64url without padding: 43 characters.
    #[must_use]
    pub fn from_random(bytes: [u8; TOKEN_BYTES]) -> Self {
        Self(SecretString::from(URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// Parses a presented token; `None` if the text has the wrong form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        (bytes.len() == TOKEN_BYTES).then(|| Self(SecretString::from(text)))
    }

    /// The digest that is stored instead of the token.
    #[must_use]
    pub fn digest(&self) -> TokenDigest {
        TokenDigest(Sha256::digest(self.expose()).into())
    }

    /// The first characters, which may be shown.
    #[must_use]
    pub fn prefix(&self) -> String {
        self.expose().chars().take(PREFIX_CHARS).collect()
    }

    /// The secret itself. Use it only to deliver the token to its owner.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// SHA-256 of a token.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenDigest(pub [u8; 32]);

impl TokenDigest {
    /// Computes the proof that a request comes from ostler. The owner of the token with this digest can verify it.
    #[must_use]
    pub fn proof(&self) -> Proof {
        Proof(hex(&Sha256::digest(format!("{PROOF_LABEL}{}", hex(&self.0)))))
    }
}

impl fmt::Debug for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[digest]")
    }
}

/// Prefix of the text whose hash is the proof, so that a proof differs from any other hash of the digest.
const PROOF_LABEL: &str = "ostler-proof:";

/// Proves to an agent that a request comes from ostler, and not from another host on its network. It is the SHA-256 of
/// `ostler-proof:` followed by the token's SHA-256, both in lower-case hexadecimal.
///
/// Only ostler can compute it from the stored digest, and only the token's owner from the token. No further secret is
/// stored or issued, and a proof is valid exactly as long as its token. A proof cannot be used as a token, because
/// authentication compares the SHA-256 of the received text with the digest. A proof does not reveal the digest, and
/// the digest does not reveal the token, because SHA-256 cannot be inverted for 32 random bytes. An HMAC would not be
/// safer, because the hashed text has a fixed length and the whole hash is compared. Agents in shell scripts have
/// `sha256sum`, but no HMAC. Rejected: a separate secret in an environment variable or a file. It would need a column,
/// a rotation and rules for adoption, and containers that already run would not have it.
#[derive(Clone, PartialEq, Eq)]
pub struct Proof(String);

impl Proof {
    /// The value as text. Use it only to write it into a request.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[proof]")
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    let digits = |byte: &u8| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]];
    bytes.iter().flat_map(digits).collect()
}

/// Replaces every token in a text by `[redacted]`. `is_token` receives the digest of each word that has the form of a
/// token, and returns whether the word is a token. Other words are kept.
#[must_use]
pub fn redact_tokens(text: &str, is_token: impl Fn(&TokenDigest) -> bool) -> String {
    let of_a_token = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(of_a_token) {
        let word = &rest[start..];
        let end = word.find(|c| !of_a_token(c)).unwrap_or(word.len());
        clean.push_str(&rest[..start]);
        let token = Token::parse(&word[..end]);
        clean.push_str(if token.is_some_and(|token| is_token(&token.digest())) {
            "[redacted]"
        } else {
            &word[..end]
        });
        rest = &word[end..];
    }
    clean + rest
}

/// Kind of a token: its owner and its lifetime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenKind {
    /// Issued for one incarnation of a workspace, and written to its config volume. Sweeps revoke only this kind.
    Instance,
    /// Issued by an operator, or for an external agent. Only an operator can revoke it.
    Api,
}

impl TokenKind {
    /// Both kinds.
    pub const ALL: [Self; 2] = [Self::Instance, Self::Api];

    /// The form in the database and in output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Instance => "instance",
            Self::Api => "api",
        }
    }
}

/// A token's row, as listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRow {
    /// Id of the row. It does not reveal the token.
    pub id: TokenId,
    /// Workspace that the token authenticates.
    pub workspace: WorkspaceId,
    /// Kind of the token.
    pub kind: TokenKind,
    /// Incarnation it was issued for; `None` for api tokens.
    pub incarnation: Option<Incarnation>,
    /// First characters of the token.
    pub prefix: String,
    /// Time of issue.
    pub created_at: Timestamp,
    /// Time of the last use, accurate to a few minutes for api tokens.
    pub last_used_at: Option<Timestamp>,
    /// Time from which it is invalid; `None` if it does not expire.
    pub expires_at: Option<Timestamp>,
    /// Time of revocation; `None` while it is not revoked.
    pub revoked_at: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_has_43_characters_and_is_parsed_back() {
        let token = Token::from_random([0xA7; TOKEN_BYTES]);
        assert_eq!(token.expose().len(), 43);
        assert_eq!(Token::parse(token.expose()).unwrap().digest(), token.digest());
    }

    #[test]
    fn only_known_tokens_are_redacted_in_a_text() {
        let (ours, other) = (Token::from_random([1; TOKEN_BYTES]), Token::from_random([2; TOKEN_BYTES]));
        let text = format!("é Bearer {}\n\"{}\",{}", ours.expose(), other.expose(), ours.expose());
        let clean = redact_tokens(&text, |digest| *digest == ours.digest());
        assert_eq!(clean, format!("é Bearer [redacted]\n\"{}\",[redacted]", other.expose()));
    }

    #[test]
    fn malformed_token_is_not_parsed() {
        for wrong in ["", "short", &"A".repeat(44), &format!("{}=", "A".repeat(43)), &"!".repeat(43)] {
            assert!(Token::parse(wrong).is_none(), "{wrong:?}");
        }
    }

    #[test]
    fn token_proof_matches_sha256sum_computation() {
        // The commands of an agent, with `$digest` as the result of the first one: printf %s "$token" | sha256sum;
        // printf 'ostler-proof:%s' "$digest" | sha256sum
        let token = Token::from_random([0xA7; TOKEN_BYTES]);
        assert_eq!(
            token.digest().proof().expose(),
            "25ddce2083cdc657bf8e5f4ad48b2c5907ba3cf4ccd18eca460d52abb835203b"
        );
    }

    #[test]
    fn token_proof_differs_per_token_and_does_not_parse_as_token() {
        let (one, other) = (Token::from_random([1; TOKEN_BYTES]), Token::from_random([2; TOKEN_BYTES]));
        let proof = one.digest().proof();
        assert_ne!(proof, other.digest().proof());
        assert!(Token::parse(proof.expose()).is_none(), "a proof must not have the form of a token");
    }

    #[test]
    fn debug_output_does_not_contain_the_token() {
        let token = Token::from_random([3; TOKEN_BYTES]);
        let proof = token.digest().proof();
        assert!(!format!("{proof:?}").contains(proof.expose()));
        let printed = format!("{token:?} {:?}", token.digest());
        assert!(!printed.contains(token.expose()) && !printed.contains(&token.prefix()), "{printed}");
    }
}
