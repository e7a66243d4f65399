//! A database of every released schema, as the version that released it left it.

/// Each schema's name and file, oldest first: all but the newest.
pub(crate) const OLD: &[(&str, &str)] = &[
    ("0001_keeper", include_str!("../store/old/0001_keeper.sql")),
    ("0002_registry", include_str!("../store/old/0002_registry.sql")),
];
