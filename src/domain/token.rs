//! Bearer tokens: the secret, its digest, its row.
//!
//! The secret exists in memory only while it is issued and written down for its holder. What is kept is
//! the SHA-256 digest and the first characters, so neither a copied database nor a log can speak for a
//! workspace. 32 random bytes need no slow hash: there is nothing to guess.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    ids::{Incarnation, TokenId, WorkspaceId},
    time::Timestamp,
};

/// How many random bytes a token is made of (wire protocol, §3).
pub const TOKEN_BYTES: usize = 32;
/// How many of its characters may be shown to tell tokens apart.
pub const PREFIX_CHARS: usize = 8;

/// A token in the clear. Prints as `[redacted]`, is wiped when dropped.
#[derive(Clone)]
pub struct Token(SecretString);

impl Token {
    /// Makes a token of random bytes: base64url without padding, 43 characters.
    #[must_use]
    pub fn from_random(bytes: [u8; TOKEN_BYTES]) -> Self {
        Self(SecretString::from(URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// Reads a token somebody presented, or `None` when the text cannot be one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        (bytes.len() == TOKEN_BYTES).then(|| Self(SecretString::from(text)))
    }

    /// What is stored instead of the token.
    #[must_use]
    pub fn digest(&self) -> TokenDigest {
        TokenDigest(Sha256::digest(self.expose()).into())
    }

    /// The characters that may be shown.
    #[must_use]
    pub fn prefix(&self) -> String {
        self.expose().chars().take(PREFIX_CHARS).collect()
    }

    /// The token itself, for the one place that hands it to its holder.
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
    /// The proof that a request comes from ostler, for the owner of the token with this digest.
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

/// What is hashed together with a token's digest. It keeps a proof apart from any other hash of the digest.
const PROOF_LABEL: &str = "ostler-proof:";

/// Shows an agent that a request comes from ostler, and not from a neighbour on its network: the SHA-256 of
/// `ostler-proof:` and the token's SHA-256, both in lower-case hexadecimal.
///
/// Only ostler (from the digest that it stores) and the token's owner (from the token) can compute it, so nothing new
/// is stored or handed out, and a proof is valid exactly as long as its token. Whoever sees a proof cannot present it
/// as a token: authentication compares the SHA-256 of what is presented with the digest, and to get from the proof to
/// the digest, or from the digest to the token, needs the preimage of a SHA-256 of 32 random bytes. The text that is
/// hashed has a fixed length and the hash is compared as a whole, so an HMAC would add nothing, and agents in a shell
/// have `sha256sum` but no HMAC. Rejected: a secret in a variable or a file of its own, which would need a column,
/// rotation and adoption rules, and would not reach containers that run already.
#[derive(Clone, PartialEq, Eq)]
pub struct Proof(String);

impl Proof {
    /// The value itself, for the one place that writes it into a request.
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

/// Replaces every word of a text that is a token, by what `is_token` says of its digest. A word that merely looks
/// like one stays.
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

/// Who a token is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenKind {
    /// One incarnation of a container; written into its volume. The only kind a sweep may revoke.
    Instance,
    /// Made by a person, or an external agent's. Only a person revokes it.
    Api,
}

impl TokenKind {
    /// Both kinds.
    pub const ALL: [Self; 2] = [Self::Instance, Self::Api];

    /// The stored and shown form.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Instance => "instance",
            Self::Api => "api",
        }
    }
}

/// A token's row, as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRow {
    /// Names the row, never the token.
    pub id: TokenId,
    /// Whom it speaks for.
    pub workspace: WorkspaceId,
    /// Instance or api.
    pub kind: TokenKind,
    /// The start it was issued for; `None` for api tokens.
    pub incarnation: Option<Incarnation>,
    /// The token's first characters.
    pub prefix: String,
    /// When it was issued.
    pub created_at: Timestamp,
    /// When it was last seen, to within a few minutes for api tokens.
    pub last_used_at: Option<Timestamp>,
    /// From when on it is no longer valid.
    pub expires_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_43_characters_and_round_trips() {
        let token = Token::from_random([0xA7; TOKEN_BYTES]);
        assert_eq!(token.expose().len(), 43);
        assert_eq!(Token::parse(token.expose()).unwrap().digest(), token.digest());
    }

    #[test]
    fn a_token_in_a_text_is_replaced_and_what_only_looks_like_one_stays() {
        let (ours, other) = (Token::from_random([1; TOKEN_BYTES]), Token::from_random([2; TOKEN_BYTES]));
        let text = format!("é Bearer {}\n\"{}\",{}", ours.expose(), other.expose(), ours.expose());
        let clean = redact_tokens(&text, |digest| *digest == ours.digest());
        assert_eq!(clean, format!("é Bearer [redacted]\n\"{}\",[redacted]", other.expose()));
    }

    #[test]
    fn what_cannot_be_a_token_is_refused_before_any_look_up() {
        for wrong in ["", "short", &"A".repeat(44), &format!("{}=", "A".repeat(43)), &"!".repeat(43)] {
            assert!(Token::parse(wrong).is_none(), "{wrong:?}");
        }
    }

    #[test]
    fn proof_is_what_an_agent_computes_with_sha256sum() {
        // printf %s "$token" | sha256sum; printf 'ostler-proof:%s' "$that" | sha256sum
        let token = Token::from_random([0xA7; TOKEN_BYTES]);
        assert_eq!(
            token.digest().proof().expose(),
            "25ddce2083cdc657bf8e5f4ad48b2c5907ba3cf4ccd18eca460d52abb835203b"
        );
    }

    #[test]
    fn proof_is_no_token_and_differs_for_each_token() {
        let (one, other) = (Token::from_random([1; TOKEN_BYTES]), Token::from_random([2; TOKEN_BYTES]));
        let proof = one.digest().proof();
        assert_ne!(proof, other.digest().proof());
        assert!(Token::parse(proof.expose()).is_none(), "a proof has the form of a token");
    }

    #[test]
    fn nothing_printed_holds_the_token() {
        let token = Token::from_random([3; TOKEN_BYTES]);
        let proof = token.digest().proof();
        assert!(!format!("{proof:?}").contains(proof.expose()));
        let shown = format!("{token:?} {:?}", token.digest());
        assert!(!shown.contains(token.expose()) && !shown.contains(&token.prefix()), "{shown}");
    }
}
