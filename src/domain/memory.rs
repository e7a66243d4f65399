//! Memories: what agents write down.

/// The longest memory, in bytes.
pub const CONTENT_MAX: usize = 32 << 10;

/// The most memories of one workspace, and their bytes.
pub const COUNT_MAX: i64 = 1000;
/// See [`COUNT_MAX`].
pub const TOTAL_MAX: i64 = 4 << 20;

/// The longest namespace, in characters.
pub const NAMESPACE_MAX: usize = 50;

/// The namespace of a memory that names none.
pub const NAMESPACE_DEFAULT: &str = "general";

/// For whom a memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The workspace that wrote it.
    Local,
    /// Its parent and its parent's children.
    Team,
    /// Every workspace.
    Global,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 3] = [Self::Local, Self::Team, Self::Global];

    /// The stored and sent form.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "LOCAL",
            Self::Team => "TEAM",
            Self::Global => "GLOBAL",
        }
    }

    /// The scope of that word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == word)
    }
}

/// The `limit` of a query: 1 to 49, and 50 where it is anything else.
#[must_use]
pub fn limit(text: Option<&str>) -> u32 {
    text.and_then(|text| text.trim().parse().ok()).filter(|limit| (1..50).contains(limit)).unwrap_or(50)
}
