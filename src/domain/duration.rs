//! Durations as text: one form is read, and three are written.
//!
//! [`exact`] writes a value of the configuration, which [`parse`] reads back. [`words`] is for sentences, [`rounded`]
//! for columns of a table.

use std::time::Duration;

use jiff::{SpanRelativeTo, fmt::friendly::SpanParser};

/// The units and their nanoseconds, largest first.
const UNITS: [(&str, u128); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1000),
    ("ns", 1),
];

/// Reads a duration above 0, such as `90s`, `1h 30m` or `14d`. A day counts as 24 hours: a retention time must not
/// depend on a time zone.
#[must_use]
pub fn parse(text: &str) -> Option<Duration> {
    let span = SpanParser::new().parse_span(text).ok()?;
    let signed = span.to_duration(SpanRelativeTo::days_are_24_hours()).ok()?;
    Duration::try_from(signed).ok().filter(|duration| !duration.is_zero())
}

/// All units of a duration, such as `14d`, `1h30m` or `500ms`. [`parse`] reads it back as the same duration.
#[must_use]
pub fn exact(duration: Duration) -> String {
    let given = units_of(duration).filter(|(count, _)| *count > 0);
    let parts: Vec<_> = given.map(|(count, unit)| format!("{count}{unit}")).collect();
    if parts.is_empty() { "0s".to_owned() } else { parts.concat() }
}

/// The largest unit and the one below it, rounded down: `45 s`, `1 h 30 min`, `2 d`.
#[must_use]
pub fn words(duration: Duration) -> String {
    let shown = units_of(whole_seconds(duration)).skip_while(|(count, _)| *count == 0).take(2);
    let parts: Vec<_> = shown
        .filter(|(count, _)| *count > 0)
        .map(|(count, unit)| format!("{count} {}", if unit == "m" { "min" } else { unit }))
        .collect();
    if parts.is_empty() { "0 s".to_owned() } else { parts.join(" ") }
}

/// The largest unit, rounded down: `45s`, `1h`, `14d`.
#[must_use]
pub fn rounded(duration: Duration) -> String {
    let largest = units_of(whole_seconds(duration)).find(|(count, _)| *count > 0);
    let (count, unit) = largest.unwrap_or((0, "s"));
    format!("{count}{unit}")
}

/// The number of each unit, largest unit first.
fn units_of(duration: Duration) -> impl Iterator<Item = (u128, &'static str)> {
    let mut rest = duration.as_nanos();
    UNITS.iter().map(move |(unit, nanos)| {
        let count = rest / nanos;
        rest %= nanos;
        (count, *unit)
    })
}

fn whole_seconds(duration: Duration) -> Duration {
    Duration::from_secs(duration.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_duration_is_read_back() {
        for text in ["3ns", "250us", "500ms", "20s", "10m", "1h30m", "14d", "1d2h3m4s5ms"] {
            assert_eq!(parse(text).map(exact).as_deref(), Some(text));
        }
        assert_eq!(exact(Duration::ZERO), "0s");
    }

    #[test]
    fn duration_may_contain_spaces_and_must_be_above_zero() {
        assert_eq!(parse("1h 30m"), Some(Duration::from_mins(90)));
        assert_eq!(parse("30d"), Some(Duration::from_hours(720)));
        for wrong in ["", "30", "0s", "-1h", "1 month", "soon"] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn words_have_at_most_two_adjacent_units() {
        for (seconds, words_of) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (90, "1 min 30 s"),
            (3605, "1 h"),
            (5400, "1 h 30 min"),
            (86_400 + 1800, "1 d"),
            (15 * 86_400 + 7200, "15 d 2 h"),
        ] {
            assert_eq!(words(Duration::from_secs(seconds)), words_of);
        }
        assert_eq!(words(Duration::from_millis(1999)), "1 s");
    }

    #[test]
    fn rounded_duration_has_one_unit() {
        for (seconds, text) in
            [(0, "0s"), (59, "59s"), (330, "5m"), (3 * 3600 + 30, "3h"), (12 * 86_400 + 30, "12d")]
        {
            assert_eq!(rounded(Duration::from_secs(seconds)), text);
        }
        assert_eq!(rounded(Duration::from_millis(1999)), "1s");
    }
}
