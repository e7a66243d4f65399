//! Parses, validates and formats each kind of value.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, time::Duration};

use toml::de::DeValue;

use super::sections::LogFormat;
use crate::domain::{
    duration,
    ports::PortRange,
    runtime::{Readiness, Tier},
};

pub(super) const USER: &str = "a user as \"uid:gid\", such as \"1000:1000\"";

const PORTS: &str = "a port range, lowest first, such as \"21000-28999\"";

const DURATION: &str = "a duration above 0, such as \"90s\", \"10m\" or \"14d\"";

const MEMORY: &str = "an amount of memory with its unit, such as \"512MiB\" or \"2GiB\"";

const TIERS: &str = "a list of tiers from 1 to 4, such as [4]";

/// Error message with the expected and the given value.
pub(super) fn expected(what: &str, given: &DeValue<'_>) -> String {
    let found = match given {
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    };
    format!("expected {what}, found {found}")
}

pub(super) fn text(given: &DeValue<'_>, what: &str) -> Result<String, String> {
    match given.as_str() {
        Some(text) if !text.trim().is_empty() => Ok(text.to_owned()),
        Some(_) | None => Err(expected(what, given)),
    }
}

pub(super) fn path(given: &DeValue<'_>) -> Result<PathBuf, String> {
    let what = "an absolute path";
    let path = PathBuf::from(text(given, what)?);
    if path.is_absolute() { Ok(path) } else { Err(expected(what, given)) }
}

pub(super) fn url(given: &DeValue<'_>) -> Result<String, String> {
    let what = "a URL that begins with http:// or https://";
    let url = text(given, what)?;
    // A trailing slash is removed: agents append paths to the URL, which would then contain `//registry/register`.
    let url = url.trim().trim_end_matches('/');
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    let is_url = rest.is_some_and(|host| !host.is_empty() && !host.contains(char::is_whitespace));
    if is_url { Ok(url.to_owned()) } else { Err(expected(what, given)) }
}

pub(super) fn flag(given: &DeValue<'_>) -> Result<bool, String> {
    match (given.as_bool(), given.as_str()) {
        (Some(flag), _) => Ok(flag),
        (None, Some("true")) => Ok(true),
        (None, Some("false")) => Ok(false),
        (None, Some(_) | None) => Err(expected("true or false", given)),
    }
}

pub(super) fn whole<T: TryFrom<i64>>(
    given: &DeValue<'_>,
    what: &str,
    least: i64,
    most: i64,
) -> Result<T, String> {
    let number = match given {
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).ok(),
        DeValue::String(text) => text.parse().ok(),
        DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_)
        | DeValue::Array(_)
        | DeValue::Table(_) => None,
    };
    number
        .filter(|number| (least..=most).contains(number))
        .and_then(|number| T::try_from(number).ok())
        .ok_or_else(|| expected(what, given))
}

pub(super) fn ports(given: &DeValue<'_>) -> Result<PortRange, String> {
    text(given, PORTS)?.parse().map_err(|_| expected(PORTS, given))
}

pub(super) fn duration(given: &DeValue<'_>) -> Result<Duration, String> {
    duration::parse(&text(given, DURATION)?).ok_or_else(|| expected(DURATION, given))
}

pub(super) fn log_filter(given: &DeValue<'_>) -> Result<String, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let what = "a log filter, such as \"info\" or \"info,ostler::sweep=debug\"";
    let filter = text(given, what)?;
    // `EnvFilter` accepts a single word that is not a level as the name of a target: `warning` would show only the log
    // of a crate of that name.
    for word in filter.split(',').map(str::trim) {
        let is_level = LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word));
        if !word.is_empty() && !is_level && !word.contains(['=', ':', '[']) {
            return Err(format!(
                "`{word}` is not a log level: use one of {}, or `TARGET=LEVEL`, such as `ostler::sweep=debug`",
                LEVELS.join(", ")
            ));
        }
    }
    match tracing_subscriber::EnvFilter::builder().parse(&filter) {
        Ok(_) => Ok(filter),
        Err(_) => Err(expected(what, given)),
    }
}

pub(super) fn log_format(given: &DeValue<'_>) -> Result<LogFormat, String> {
    let found = LogFormat::ALL.into_iter().find(|format| Some(format.as_str()) == given.as_str());
    found.ok_or_else(|| expected("\"auto\", \"pretty\" or \"json\"", given))
}

/// A list, or a comma-separated text as in an environment variable.
pub(super) fn addresses(given: &DeValue<'_>) -> Result<Vec<IpAddr>, String> {
    let what = "a list of addresses without ports, such as [\"127.0.0.1\", \"192.168.1.10\"]";
    let element = "an address without a port, such as \"127.0.0.1\"";
    if let Some(text) = given.as_str() {
        let parse = |one: &str| one.parse().map_err(|_| format!("expected {element}, found {one:?}"));
        return text.split(',').map(|one| parse(one.trim())).collect();
    }
    let list = given.as_array().filter(|list| !list.is_empty()).ok_or_else(|| expected(what, given))?;
    let parse = |one: &DeValue<'_>| one.as_str().and_then(|text| text.parse().ok());
    list.iter().map(|one| parse(one.get_ref()).ok_or_else(|| expected(element, one.get_ref()))).collect()
}

pub(super) fn words(given: &DeValue<'_>) -> Result<Vec<String>, String> {
    let what = "a list of strings, such as [\"agent\", \"--listen\"]";
    let list = given.as_array().ok_or_else(|| expected(what, given))?;
    list.iter()
        .map(|word| word.get_ref().as_str().map(str::to_owned).ok_or_else(|| expected(what, word.get_ref())))
        .collect()
}

pub(super) fn readiness_text(readiness: Readiness) -> &'static str {
    match readiness {
        Readiness::Container => "container",
        Readiness::Heartbeat => "heartbeat",
    }
}

pub(super) fn readiness(given: &DeValue<'_>) -> Result<Readiness, String> {
    let found = [Readiness::Container, Readiness::Heartbeat]
        .into_iter()
        .find(|one| Some(readiness_text(*one)) == given.as_str());
    found.ok_or_else(|| expected("\"container\" or \"heartbeat\"", given))
}

const UNITS: [(&str, u64); 7] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("B", 1),
];

/// A number without a unit is rejected: an operator who writes `memory = "512"` hardly means bytes.
pub(super) fn memory(given: &DeValue<'_>) -> Result<u64, String> {
    let written = text(given, MEMORY)?;
    let bytes = UNITS.iter().find_map(|(unit, size)| {
        let count: u64 = written.strip_suffix(unit)?.trim_end().parse().ok()?;
        count.checked_mul(*size)
    });
    // The limit is sent to the engine as a signed 64-bit integer.
    bytes.filter(|bytes| *bytes > 0 && i64::try_from(*bytes).is_ok()).ok_or_else(|| expected(MEMORY, given))
}

/// Minimum of `engine.log_size`, in bytes. With a smaller limit, conmon would have to replace the log file very often.
const LOG_SIZE_MIN: u64 = 64 << 10;

pub(super) fn log_size(given: &DeValue<'_>) -> Result<u64, String> {
    let what = "a size of at least \"64KiB\" with its unit, such as \"10MiB\"";
    let bytes = memory(given).map_err(|_| expected(what, given))?;
    if bytes < LOG_SIZE_MIN { Err(expected(what, given)) } else { Ok(bytes) }
}

pub(super) fn memory_text(bytes: u64) -> String {
    let exact = UNITS.iter().find(|(_, size)| bytes.is_multiple_of(*size));
    exact.map_or_else(|| format!("{bytes}B"), |(unit, size)| format!("{}{unit}", bytes / size))
}

pub(super) fn cores(given: &DeValue<'_>) -> Result<f64, String> {
    let number = match given {
        DeValue::Integer(number) => number.as_str().parse::<f64>().ok(),
        DeValue::Float(number) => number.as_str().parse().ok(),
        DeValue::String(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_)
        | DeValue::Array(_)
        | DeValue::Table(_) => None,
    };
    let sane = number.filter(|cores| cores.is_finite() && *cores > 0.0);
    sane.ok_or_else(|| expected("a number of cores above 0, such as 1.5", given))
}

pub(super) fn env(given: &DeValue<'_>) -> Result<BTreeMap<String, String>, String> {
    let what = "a table of strings, such as { LANG = \"C.UTF-8\" }";
    let table = given.as_table().ok_or_else(|| expected(what, given))?;
    table.iter().map(|(name, value)| variable(name.get_ref(), value.get_ref())).collect()
}

/// The error does not contain the value, which may be a secret.
fn variable(name: &str, value: &DeValue<'_>) -> Result<(String, String), String> {
    if name.is_empty() || name.contains(['=', '\0']) {
        return Err(format!("`{name}` is not a valid name of an environment variable"));
    }
    match value.as_str() {
        Some(text) => Ok((name.to_owned(), text.to_owned())),
        None => Err(format!(
            "`{name}`: expected a string, found {}; put it in quotes",
            with_article(value.type_str())
        )),
    }
}

fn with_article(noun: &str) -> String {
    let article = if noun.starts_with(['a', 'i']) { "an" } else { "a" };
    format!("{article} {noun}")
}

pub(super) fn tiers(given: &DeValue<'_>) -> Result<Vec<Tier>, String> {
    let list = given.as_array().ok_or_else(|| expected(TIERS, given))?;
    let tier = |number: u8| Tier::try_from(number).map_err(|error| error.to_string());
    list.iter().map(|one| whole(one.get_ref(), TIERS, 1, 4).and_then(tier)).collect()
}

#[cfg(test)]
mod tests {
    use crate::config::fixture::read_text;

    #[test]
    fn platform_url_loses_its_trailing_slash_and_spaces() {
        for given in ["http://box:7717/", "http://box:7717//", " http://box:7717 ", "http://box:7717"] {
            let config = read_text(&format!("[network]\nplatform_url = \"{given}\"")).unwrap();
            assert_eq!(config.network.platform_url.as_deref(), Some("http://box:7717"), "{given:?}");
        }
    }

    #[test]
    fn log_level_must_be_a_known_level_or_target_filter() {
        for level in ["info", "WARN", "off", "info,ostler::sweep=debug", "ostler::http", "[span]=trace"] {
            let read = read_text(&format!("[log]\nlevel = \"{level}\""));
            assert!(read.is_ok(), "{level}: {read:?}");
        }
        for level in ["warning", "ERR", "info,verbose"] {
            let refused = read_text(&format!("[log]\nlevel = \"{level}\"")).unwrap_err();
            assert!(refused.contains("is not a log level"), "{level}: {refused}");
        }
    }
}
