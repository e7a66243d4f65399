//! Identities, each a type of its own so that one can never be passed for another.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        /// Only the 36-character lower-case form is read: labels and names must round-trip to the letter.
        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let id = Uuid::try_parse(text).map_err(|_| InvalidId(text.to_owned()))?;
                if id.hyphenated().to_string() == text { Ok(Self(id)) } else { Err(InvalidId(text.to_owned())) }
            }
        }

        impl $name {
            /// Reads an id that a client sent: the 36-character form in any case (RFC 9562, section 4).
            ///
            /// # Errors
            /// When the text is no id.
            pub fn from_client(text: &str) -> Result<Self, InvalidId> {
                text.to_ascii_lowercase().parse().map_err(|_| InvalidId(text.to_owned()))
            }
        }
    };
}

uuid_id!(
    /// A workspace. Given once, never used again: volumes are named by it.
    WorkspaceId
);
uuid_id!(
    /// This installation's identity: the label that tells our containers from a neighbour's.
    InstanceId
);
uuid_id!(
    /// An entry in the trash.
    TrashId
);
uuid_id!(
    /// A token's row; never the token itself.
    TokenId
);
uuid_id!(
    /// A plan the breaker held; a person approves it by this id.
    PlanId
);

/// Text that is no id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an id: expected a UUID in lower case, such as 6f1c0c5e-0d0f-4c58-9b0e-0a4c1b7e2d11")]
pub struct InvalidId(pub String);

/// How many times a workspace has been started, counted from 1. Whatever speaks for an older one is late.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Incarnation(pub u32);

impl Incarnation {
    /// The incarnation of the next start.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The engine's id of a container: 64 hexadecimal digits, never a name, so that no character of it can
/// change the request it is put into.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerId(String);

impl ContainerId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first twelve digits, as Podman's own tools print it.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl TryFrom<String> for ContainerId {
    type Error = InvalidId;
    fn try_from(text: String) -> Result<Self, InvalidId> {
        let hex = text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if hex { Ok(Self(text)) } else { Err(InvalidId(text)) }
    }
}

impl From<ContainerId> for String {
    fn from(id: ContainerId) -> Self {
        id.0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_lower_case_hyphenated_form_is_an_id() {
        let text = "6f1c0c5e-0d0f-4c58-9b0e-0a4c1b7e2d11";
        assert_eq!(text.parse::<WorkspaceId>().unwrap().to_string(), text);
        for wrong in [text.to_uppercase(), text.replace('-', ""), format!("{{{text}}}"), String::new()] {
            assert!(wrong.parse::<WorkspaceId>().is_err(), "{wrong} was taken for an id");
        }
    }

    #[test]
    fn an_id_of_a_client_is_read_in_any_case() {
        let text = "6f1c0c5e-0d0f-4c58-9b0e-0a4c1b7e2d11";
        for sent in [text, &text.to_uppercase(), "6F1C0c5e-0d0f-4c58-9b0e-0a4c1b7e2d11"] {
            assert_eq!(
                WorkspaceId::from_client(sent).map(|id| id.to_string()),
                Ok(text.to_owned()),
                "{sent}"
            );
        }
        for wrong in [&text.replace('-', ""), &format!("{{{text}}}"), &format!(" {text}"), ""] {
            assert!(WorkspaceId::from_client(wrong).is_err(), "{wrong} was taken for an id");
        }
    }

    #[test]
    fn a_container_id_holds_nothing_that_could_change_a_request() {
        assert!(ContainerId::try_from("a".repeat(64)).is_ok());
        for wrong in ["a".repeat(63), "A".repeat(64), format!("{}?", "a".repeat(63)), "../".repeat(22)] {
            assert!(ContainerId::try_from(wrong.clone()).is_err(), "{wrong} was taken for a container id");
        }
    }
}
