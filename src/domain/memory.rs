//! Memories: notes that agents store.

/// Maximum size of a memory, in bytes.
pub const CONTENT_MAX: usize = 32 << 10;

/// Maximum number of memories per workspace. `TOTAL_MAX` limits their total size.
pub const COUNT_MAX: i64 = 1000;
/// Maximum total size of a workspace's memories, in bytes.
pub const TOTAL_MAX: i64 = 4 << 20;

/// Maximum length of a namespace, in characters.
pub const NAMESPACE_MAX: usize = 50;

/// Namespace of a memory that is stored without a namespace.
pub const NAMESPACE_DEFAULT: &str = "general";

/// Which workspaces may read a memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Only the workspace that wrote it.
    Local,
    /// Its parent and its parent's children.
    Team,
    /// Every workspace.
    Global,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 3] = [Self::Local, Self::Team, Self::Global];

    /// The form in the database and on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "LOCAL",
            Self::Team => "TEAM",
            Self::Global => "GLOBAL",
        }
    }

    /// Parses the output of `Scope::as_str`.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == word)
    }
}

/// Parses the `limit` of a query: 1 to 49 as given, otherwise 50.
#[must_use]
pub fn limit(text: Option<&str>) -> u32 {
    text.and_then(|text| text.trim().parse().ok()).filter(|limit| (1..50).contains(limit)).unwrap_or(50)
}
