//! Configuration: defaults, then a TOML file, then `OSTLER_*` variables, then flags, as validated values.
//!
//! One table, `keys::KEYS`, lists every key once: its path in the file, its documentation, the field that it sets and
//! when a change takes effect. The field and its default are in `sections.rs`.
//! The file reader, the environment, `config show` and the template all use this table, so they always support the same
//! keys. Deserialising with a serde derive would need no table, but its errors could not name the file, the line and
//! the nearest valid key.
//!
//! All problems of a file are collected and reported together, so that an operator can fix them in one edit.

mod advice;
mod check;
mod difference;
mod error;
mod file;
#[cfg(test)]
mod fixture;
mod keys;
mod load;
mod origin;
mod overrides;
mod paths;
mod reload;
mod sections;
mod settings;
mod slot;
mod template;
mod value;

pub use difference::{Difference, differences};
pub use error::{ConfigError, Problem};
pub use load::{Loaded, Setting, load, socket_despite_errors};
pub use overrides::Overrides;
pub use sections::{
    AccessConfig, EngineConfig, ExternalConfig, LogConfig, LogFormat, NetworkConfig, SweepConfig,
};
pub use settings::Config;
pub use template::template;
