//! Host ports that ostler assigns to containers.

use std::{fmt, str::FromStr};

/// An inclusive range of ports of 127.0.0.1.
///
/// ostler assigns ports from this range and stores them in the rows. A port that the engine picks at random could be
/// used by another process while the container is stopped, and then no later start would succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// Lowest port.
    pub first: u16,
    /// Highest port.
    pub last: u16,
}

impl Default for PortRange {
    fn default() -> Self {
        Self { first: 21_000, last: 28_999 }
    }
}

/// A text that is not a range of ports.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a range of ports: expected two numbers from 1024 to 65535, such as `21000-28999`")]
pub struct InvalidPortRange(pub String);

impl FromStr for PortRange {
    type Err = InvalidPortRange;
    fn from_str(text: &str) -> Result<Self, InvalidPortRange> {
        let invalid = || InvalidPortRange(text.to_owned());
        let (first, last) = text.split_once('-').ok_or_else(invalid)?;
        let port = |part: &str| part.trim().parse().ok().filter(|port| *port >= 1024).ok_or_else(invalid);
        let range = Self { first: port(first)?, last: port(last)? };
        if range.first <= range.last { Ok(range) } else { Err(invalid()) }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_range_needs_two_unprivileged_ports_in_order() {
        assert_eq!("21000-28999".parse::<PortRange>().unwrap(), PortRange::default());
        for wrong in ["", "21000", "3000-2000", "80-90", "1-70000", "a-b"] {
            assert!(wrong.parse::<PortRange>().is_err(), "{wrong}");
        }
    }
}
