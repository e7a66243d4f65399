//! Databases of the released schemas, as written by the version that released each.

/// Name and file of each schema except the newest, oldest first.
pub(crate) const OLD: &[(&str, &str)] = &[
    ("0001_keeper", include_str!("../store/old/0001_keeper.sql")),
    ("0002_registry", include_str!("../store/old/0002_registry.sql")),
    ("0003_field", include_str!("../store/old/0003_field.sql")),
];
