//! Formats values for display: times, statuses, sizes, and texts from agents and containers.

use std::time::Duration;

use jiff::{Timestamp, tz::TimeZone};

use crate::{
    api::workspace::WorkspaceView,
    domain::{
        duration,
        text::{Layout, terminal_safe},
    },
};

use super::output::Tone;

/// From an age of this many days on, a date is shown instead of the number of days.
const DAYS_COUNTED: u64 = 60;

/// Time since an RFC 3339 time, such as `12s`, `5m`, `3h` or `12d`. From `DAYS_COUNTED` days on, the date instead.
pub(super) fn age(time: &str) -> String {
    let Ok(then) = time.parse::<Timestamp>() else { return printable(time) };
    // Reads the system clock directly, because the age is only displayed and never used in a decision.
    let seconds = Timestamp::now().as_second().saturating_sub(then.as_second());
    let age = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    if age < Duration::from_hours(24 * DAYS_COUNTED) {
        return duration::rounded(age);
    }
    then.to_zoned(TimeZone::system()).strftime("%Y-%m-%d").to_string()
}

/// The age as a duration in a sentence: `for 3h`, `since 2025-01-02`.
pub(super) fn lasting(time: &str) -> String {
    let age = age(time);
    if age.contains('-') { format!("since {age}") } else { format!("for {age}") }
}

/// The age as a point in time: `3h ago`, `on 2025-01-02`.
pub(super) fn ago(time: &str) -> String {
    let age = age(time);
    if age.contains('-') { format!("on {age}") } else { format!("{age} ago") }
}

/// An RFC 3339 time in this machine's time zone, to the second.
pub(super) fn local(time: &str) -> String {
    match time.parse::<Timestamp>() {
        Ok(then) => then.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => printable(time),
    }
}

/// The local time, followed by its age such as `(3h ago)` if that is below `DAYS_COUNTED` days.
pub(super) fn local_and_age(time: &str) -> String {
    let age = age(time);
    if age.contains('-') { local(time) } else { format!("{} ({age} ago)", local(time)) }
}

/// Makes text from an untrusted source safe for a terminal, on one line. See [`terminal_safe`].
pub(super) fn printable(text: &str) -> String {
    terminal_safe(text, Layout::Line).into_owned()
}

/// Makes text from an untrusted source safe for a terminal, keeping its lines. See [`terminal_safe`].
pub(super) fn printable_lines(text: &str) -> String {
    terminal_safe(text, Layout::Lines).into_owned()
}

/// The status, with the kind of failure if there is one: `failed (parked)`, `online`.
pub(super) fn status(workspace: &WorkspaceView) -> String {
    match &workspace.failure {
        Some(failure) => format!("{} ({failure})", workspace.status),
        None => workspace.status.clone(),
    }
}

/// The tone in which a status is shown.
pub(super) fn tone(status: &str) -> Tone {
    match status {
        "online" => Tone::Good,
        "provisioning" | "degraded" | "hibernating" | "awaiting_agent" => Tone::Warn,
        "failed" | "offline" => Tone::Bad,
        "paused" | "hibernated" | "removed" => Tone::Dim,
        _ => Tone::Plain,
    }
}

/// The first 8 characters of an id, which usually identify an object as an argument of a command.
pub(super) fn short(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}

/// A size, rounded down, in the largest binary unit in which its number is at least 1.
pub(super) fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{} KiB", bytes >> 10),
        1_048_576..1_073_741_824 => format!("{} MiB", bytes >> 20),
        _ => format!("{} GiB", bytes >> 30),
    }
}

/// A number with its noun: `1 entry`, `3 entries`.
pub(super) fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// A name in shell syntax: in single quotes if it contains a space.
pub(super) fn quoted(name: &str) -> String {
    if name.contains(' ') { format!("'{name}'") } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn age_is_shown_as_a_duration_or_as_a_date_when_old() {
        let ago = |seconds| age(&(Timestamp::now() - jiff::SignedDuration::from_secs(seconds)).to_string());
        assert_eq!(ago(5 * 60 + 30), "5m");
        assert_eq!(ago(59 * 86_400 + 30), "59d");
        assert_eq!(ago(-90), "0s");
        assert_eq!(age("2020-03-04T12:00:00Z"), "2020-03-04");
    }
}
