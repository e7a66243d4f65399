//! Sets and shows a field: one [`Slot`] for each kind of value.
//!
//! Environment variables are text, so every slot that an environment variable can set also accepts its value as text.

use std::{collections::BTreeMap, mem, net::IpAddr, path::PathBuf, time::Duration};

use toml::{Value, de::DeValue};

use super::{
    sections::LogFormat,
    value::{
        USER, addresses, cores, duration, env, expected, flag, log_filter, log_format, log_size, memory,
        memory_text, path, ports, readiness, readiness_text, text, tiers, url, whole, words,
    },
};
use crate::domain::{
    duration,
    ports::PortRange,
    runtime::{Readiness, Tier, User},
};

/// A field of the configuration that holds one value. Two slots are equal if their values are equal.
#[derive(PartialEq)]
pub(super) enum Slot<'a> {
    Path(&'a mut PathBuf),
    Text(&'a mut Option<String>),
    Url(&'a mut Option<String>),
    Flag(&'a mut bool),
    Port(&'a mut u16),
    Ports(&'a mut PortRange),
    Duration(&'a mut Duration),
    LogFilter(&'a mut String),
    LogFormat(&'a mut LogFormat),
    Words(&'a mut Vec<String>),
    User(&'a mut User),
    Readiness(&'a mut Readiness),
    Memory(&'a mut Option<u64>),
    LogSize(&'a mut u64),
    Cores(&'a mut Option<f64>),
    Count(&'a mut Option<u32>),
    Env(&'a mut BTreeMap<String, String>),
    Tiers(&'a mut Vec<Tier>),
    Addresses(&'a mut Vec<IpAddr>),
    Number(&'a mut u32),
    Ends(&'a mut usize),
}

impl Slot<'_> {
    /// Sets the value. The error text is a phrase that the caller writes after the name of the key and a colon.
    pub(super) fn set(self, given: &DeValue<'_>) -> Result<(), String> {
        match self {
            Self::Path(slot) => *slot = path(given)?,
            Self::Text(slot) => *slot = Some(text(given, "a non-empty string")?),
            Self::Url(slot) => *slot = Some(url(given)?),
            Self::Flag(slot) => *slot = flag(given)?,
            Self::Port(slot) => *slot = whole(given, "a port from 1 to 65535", 1, u16::MAX.into())?,
            Self::Ports(slot) => *slot = ports(given)?,
            Self::Duration(slot) => *slot = duration(given)?,
            Self::LogFilter(slot) => *slot = log_filter(given)?,
            Self::LogFormat(slot) => *slot = log_format(given)?,
            Self::Words(slot) => *slot = words(given)?,
            Self::User(slot) => *slot = text(given, USER)?.parse().map_err(|_| expected(USER, given))?,
            Self::Readiness(slot) => *slot = readiness(given)?,
            Self::Memory(slot) => *slot = Some(memory(given)?),
            Self::LogSize(slot) => *slot = log_size(given)?,
            Self::Cores(slot) => *slot = Some(cores(given)?),
            Self::Count(slot) => *slot = Some(whole(given, "a number above 0", 1, u32::MAX.into())?),
            Self::Env(slot) => *slot = env(given)?,
            Self::Tiers(slot) => *slot = tiers(given)?,
            Self::Addresses(slot) => *slot = addresses(given)?,
            Self::Number(slot) => *slot = whole(given, "a number, 0 or more", 0, u32::MAX.into())?,
            Self::Ends(slot) => *slot = whole(given, "a number from 1 to 1000", 1, 1000)?,
        }
        Ok(())
    }

    /// Swaps the values of two slots of the same key.
    pub(super) fn swap(self, with: Self) {
        macro_rules! swap_any {
            ($($kind:ident)*) => {
                match (self, with) {
                    $((Self::$kind(one), Self::$kind(other)) => mem::swap(one, other),)*
                    _ => unreachable!("the slots of a key have the same kind"),
                }
            };
        }
        swap_any!(
            Path Text Url Flag Port Ports Duration LogFilter LogFormat Words User
            Readiness Memory LogSize Cores Count Env Tiers Addresses Number Ends
        );
    }

    /// The value in TOML syntax; `None` if unset.
    ///
    /// For environment variables only the names are shown: the values may be secrets.
    pub(super) fn show(self) -> Option<String> {
        let value = match self {
            Self::Path(slot) => Value::from(slot.display().to_string()),
            Self::Text(slot) | Self::Url(slot) => Value::from(slot.clone()?),
            Self::Flag(slot) => Value::from(*slot),
            Self::Port(slot) => Value::from(i64::from(*slot)),
            Self::Ports(slot) => Value::from(slot.to_string()),
            Self::Duration(slot) => Value::from(duration::exact(*slot)),
            Self::LogFilter(slot) => Value::from(slot.clone()),
            Self::LogFormat(slot) => Value::from(slot.as_str()),
            Self::Words(slot) if slot.is_empty() => return None,
            Self::Words(slot) => Value::from(slot.clone()),
            Self::User(slot) => Value::from(slot.to_string()),
            Self::Readiness(slot) => Value::from(readiness_text(*slot)),
            Self::Memory(slot) => Value::from(memory_text((*slot)?)),
            Self::LogSize(slot) => Value::from(memory_text(*slot)),
            Self::Cores(slot) => Value::from((*slot)?),
            Self::Count(slot) => Value::from(i64::from((*slot)?)),
            Self::Env(slot) if slot.is_empty() => return None,
            Self::Env(slot) => {
                let names: Vec<_> = slot.keys().map(|name| format!("{name} = …")).collect();
                return Some(format!("{{ {} }}", names.join(", ")));
            }
            Self::Tiers(slot) => {
                Value::from(slot.iter().map(|tier| i64::from(tier.number())).collect::<Vec<_>>())
            }
            Self::Addresses(slot) if slot.is_empty() => return None,
            Self::Addresses(slot) => Value::from(slot.iter().map(IpAddr::to_string).collect::<Vec<_>>()),
            Self::Number(slot) => Value::from(i64::from(*slot)),
            Self::Ends(slot) => Value::from(i64::try_from(*slot).unwrap_or(i64::MAX)),
        };
        Some(value.to_string())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::fixture::read_text;

    #[test]
    fn durations_and_memory_sizes_round_trip() {
        for text in ["500ms", "20s", "10m", "1h30m", "14d", "1d2h3m4s5ms"] {
            let mut duration = Duration::ZERO;
            Slot::Duration(&mut duration).set(&DeValue::String(text.into())).unwrap();
            assert_eq!(duration::exact(duration), text);
        }
        for text in ["1B", "1000KiB", "512MiB", "3GiB"] {
            let mut memory = None;
            Slot::Memory(&mut memory).set(&DeValue::String(text.into())).unwrap();
            assert_eq!(Slot::Memory(&mut memory).show().unwrap(), format!("\"{text}\""));
        }
    }

    /// The values of environment variables may be secrets.
    #[test]
    fn runtime_environment_is_shown_without_values() {
        let config = read_text("[runtimes.agent.env]\nAPI_KEY = \"hunter2\"\n").unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
        let displayed = Slot::Env(&mut config.runtimes["agent"].env.clone()).show().unwrap();
        assert_eq!(displayed, "{ API_KEY = … }");
    }

    /// Gives the field another valid value.
    pub(in crate::config) fn alter(slot: Slot<'_>) {
        match slot {
            Slot::Path(slot) => slot.push("other"),
            Slot::Text(slot) => *slot = Some("other".into()),
            Slot::Url(slot) => *slot = Some("http://other".into()),
            Slot::Flag(slot) => *slot = !*slot,
            Slot::Port(slot) => *slot += 1,
            Slot::Ports(slot) => slot.first += 1,
            Slot::Duration(slot) => *slot += Duration::from_secs(1),
            Slot::LogFilter(slot) => "trace".clone_into(slot),
            Slot::LogFormat(slot) => *slot = LogFormat::Json,
            Slot::Words(slot) => slot.push("other".into()),
            Slot::User(slot) => slot.uid += 1,
            Slot::Readiness(slot) => {
                *slot = match slot {
                    Readiness::Container => Readiness::Heartbeat,
                    Readiness::Heartbeat => Readiness::Container,
                }
            }
            Slot::Memory(slot) => *slot = Some(slot.unwrap_or_default() + 1),
            Slot::LogSize(slot) => *slot += 1,
            Slot::Cores(slot) => *slot = Some(slot.unwrap_or_default() + 1.0),
            Slot::Count(slot) => *slot = Some(slot.unwrap_or_default() + 1),
            Slot::Env(slot) => drop(slot.insert("OTHER".into(), "1".into())),
            Slot::Tiers(slot) => slot.push(Tier::SANDBOX),
            Slot::Addresses(slot) => slot.push(IpAddr::from([192, 0, 2, 1])),
            Slot::Number(slot) => *slot += 1,
            Slot::Ends(slot) => *slot += 1,
        }
    }
}
