//! Ids. Each kind has its own type, so that the compiler detects a wrong kind.

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

        /// Accepts only the lower-case form with 36 characters, so that an id in a label or name has exactly one
        /// written form.
        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let id = Uuid::try_parse(text).map_err(|_| InvalidId(text.to_owned()))?;
                if id.hyphenated().to_string() == text { Ok(Self(id)) } else { Err(InvalidId(text.to_owned())) }
            }
        }

        impl $name {
            /// Parses an id sent by a client: the 36-character form in any case (RFC 9562, section 4).
            ///
            /// # Errors
            /// If the text is not an id.
            pub fn from_client(text: &str) -> Result<Self, InvalidId> {
                text.to_ascii_lowercase().parse().map_err(|_| InvalidId(text.to_owned()))
            }
        }
    };
}

uuid_id!(
    /// Id of a workspace. Never reused, because the names of volumes contain it.
    WorkspaceId
);
uuid_id!(
    /// Id of an installation of ostler. A label that contains it distinguishes the containers of this installation from
    /// those of another.
    InstanceId
);
uuid_id!(
    /// Id of an entry in the trash.
    TrashId
);
uuid_id!(
    /// Id of a token's row. It does not reveal the token.
    TokenId
);
uuid_id!(
    /// Id of a held plan, with which an operator approves it.
    PlanId
);

uuid_id!(
    /// Id of a row of a workspace's activity; clients use it as a cursor.
    ActivityId
);

uuid_id!(
    /// Id of a task that one workspace delegated to another.
    DelegationId
);
uuid_id!(
    /// Id of a memory of a workspace.
    MemoryId
);

/// A text that is not an id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an id: expected a UUID with hyphens, such as 6f1c0c5e-0d0f-4c58-9b0e-0a4c1b7e2d11")]
pub struct InvalidId(pub String);

/// A text that is not a container id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a container id: expected 64 hexadecimal digits in lower case")]
pub struct InvalidContainerId(pub String);

/// Returns the range of ids that begin with `text`; `None` if `text` cannot be the beginning of an id. It must have 4
/// to 32 hexadecimal digits in any case, either with hyphens at the positions of a UUID or without hyphens. A complete
/// id is such a beginning too.
#[must_use]
pub fn id_prefix(text: &str) -> Option<IdPrefix> {
    const HYPHENS: [usize; 4] = [8, 13, 18, 23];
    let hyphenated = text.contains('-');
    let fits = |(at, c): (usize, char)| {
        if c == '-' {
            HYPHENS.contains(&at)
        } else {
            c.is_ascii_hexdigit() && !(hyphenated && HYPHENS.contains(&at))
        }
    };
    if !text.char_indices().all(fits) {
        return None;
    }
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    if !(4..=32).contains(&digits.len()) {
        return None;
    }
    let bound = |fill: &str| {
        let filled = format!("{digits}{}", fill.repeat(32 - digits.len()));
        u128::from_str_radix(&filled, 16).ok().map(|number| WorkspaceId(Uuid::from_u128(number)))
    };
    Some(IdPrefix { first: bound("0")?, last: bound("f")?, digits: digits.len() })
}

/// A range of ids with a common prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdPrefix {
    /// The lowest id with this prefix.
    pub first: WorkspaceId,
    /// The highest id with this prefix.
    pub last: WorkspaceId,
    /// Number of digits given: 4 to 32.
    pub digits: usize,
}

impl IdPrefix {
    /// The id, if all 32 digits were given.
    #[must_use]
    pub fn whole(self) -> Option<WorkspaceId> {
        (self.digits == 32).then_some(self.first)
    }

    /// Whether it is long enough to be read as an id and not as a name. The limit is eight digits, because output shows
    /// the first eight digits of ids.
    #[must_use]
    pub fn is_id_prefix(self) -> bool {
        self.digits >= 8
    }
}

/// Number of starts of a workspace: the first start has incarnation 1. Reports of the agent of an older incarnation are
/// ignored.
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

/// Id of a container in the engine. It always has 64 hexadecimal digits and is never a name, so that it can be inserted
/// into the path of a request without escaping.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerId(String);

impl ContainerId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first twelve digits, as in the output of Podman's commands.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl TryFrom<String> for ContainerId {
    type Error = InvalidContainerId;
    fn try_from(text: String) -> Result<Self, InvalidContainerId> {
        let hex = text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if hex { Ok(Self(text)) } else { Err(InvalidContainerId(text)) }
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
    fn id_parse_error_describes_the_expected_form() {
        let refused = WorkspaceId::from_client("two").unwrap_err().to_string();
        assert!(refused.contains("a UUID with hyphens") && !refused.contains("lower case"), "{refused}");
        let refused = ContainerId::try_from("two".to_owned()).unwrap_err().to_string();
        assert!(refused.contains("64 hexadecimal digits") && !refused.contains("UUID"), "{refused}");
    }

    #[test]
    fn workspace_id_parses_only_lower_case_with_hyphens() {
        let text = "6f1c0c5e-0d0f-4c58-9b0e-0a4c1b7e2d11";
        assert_eq!(text.parse::<WorkspaceId>().unwrap().to_string(), text);
        for wrong in [text.to_uppercase(), text.replace('-', ""), format!("{{{text}}}"), String::new()] {
            assert!(wrong.parse::<WorkspaceId>().is_err(), "{wrong} was accepted as an id");
        }
    }

    #[test]
    fn client_supplied_id_is_parsed_in_any_case() {
        let text = "6f1c0c5e-0d0f-4c58-9b0e-0a4c1b7e2d11";
        for sent in [text, &text.to_uppercase(), "6F1C0c5e-0d0f-4c58-9b0e-0a4c1b7e2d11"] {
            assert_eq!(
                WorkspaceId::from_client(sent).map(|id| id.to_string()),
                Ok(text.to_owned()),
                "{sent}"
            );
        }
        for wrong in [&text.replace('-', ""), &format!("{{{text}}}"), &format!(" {text}"), ""] {
            assert!(WorkspaceId::from_client(wrong).is_err(), "{wrong} was accepted as an id");
        }
    }

    #[test]
    fn id_prefix_has_hyphens_at_uuid_positions_or_none() {
        let id: WorkspaceId = "6f1c0c5e-0d0f-4c58-9b0e-0a4c1b7e2d11".parse().unwrap();
        for prefix in
            ["6f1c", "6f1c0c5e", "6F1C0C5E-0d0f", "6f1c0c5e0d0f", "6f1c0c5e-", "6f1c0c5e-0d0f-4c58-9b0e-0a4c"]
        {
            let range = id_prefix(prefix).expect(prefix);
            assert!(range.first <= id && id <= range.last && range.whole().is_none(), "{prefix}");
        }
        assert_eq!(id_prefix(&id.to_string().to_uppercase()).and_then(IdPrefix::whole), Some(id));
        for name in
            ["6f1", "face-0001", "facade-0001", "w1", "6f1c0c5e-0d0f4c58", "6f1c0c5é", "6f1c 0c5e", ""]
        {
            assert_eq!(id_prefix(name), None, "{name}");
        }
    }

    #[test]
    fn container_id_must_be_64_lower_case_hex_digits() {
        assert!(ContainerId::try_from("a".repeat(64)).is_ok());
        for wrong in ["a".repeat(63), "A".repeat(64), format!("{}?", "a".repeat(63)), "../".repeat(22)] {
            assert!(ContainerId::try_from(wrong.clone()).is_err(), "{wrong} was accepted as a container id");
        }
    }
}
