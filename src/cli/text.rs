//! How things are said to people: times, statuses, and texts that came from elsewhere.

use jiff::{Timestamp, tz::TimeZone};

use crate::{
    api::WorkspaceView,
    domain::text::{Layout, terminal_safe},
};

use super::output::Tone;

/// Beyond this many days a date says more than a count.
const DAYS_COUNTED: i64 = 60;

/// How long ago an RFC 3339 time was: `12s`, `5m`, `3h`, `12d`, then the date.
pub(super) fn age(time: &str) -> String {
    let Ok(then) = time.parse::<Timestamp>() else { return printable(time) };
    // Of no consequence for any decision, so not worth a clock as a parameter.
    let seconds = Timestamp::now().as_second().saturating_sub(then.as_second()).max(0);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ if seconds < DAYS_COUNTED * 86_400 => format!("{}d", seconds / 86_400),
        _ => then.to_zoned(TimeZone::system()).strftime("%Y-%m-%d").to_string(),
    }
}

/// The same in a sentence: `for 3h`, `since 2025-01-02`.
pub(super) fn lasting(time: &str) -> String {
    let age = age(time);
    if age.contains('-') { format!("since {age}") } else { format!("for {age}") }
}

/// The same as a point in time: `3h ago`, `on 2025-01-02`.
pub(super) fn ago(time: &str) -> String {
    let age = age(time);
    if age.contains('-') { format!("on {age}") } else { format!("{age} ago") }
}

/// An RFC 3339 time in this machine's zone, to the second.
pub(super) fn local(time: &str) -> String {
    match time.parse::<Timestamp>() {
        Ok(then) => then.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => printable(time),
    }
}

/// The same, with how long ago it was or that it lies ahead.
pub(super) fn local_and_age(time: &str) -> String {
    let age = age(time);
    if age.contains('-') { local(time) } else { format!("{} ({age} ago)", local(time)) }
}

/// A text from elsewhere on one line, see [`terminal_safe`].
pub(super) fn printable(text: &str) -> String {
    terminal_safe(text, Layout::Line).into_owned()
}

/// A text from elsewhere on lines of its own, see [`terminal_safe`].
pub(super) fn printable_lines(text: &str) -> String {
    terminal_safe(text, Layout::Lines).into_owned()
}

/// `failed (parked)`, `online`.
pub(super) fn status(workspace: &WorkspaceView) -> String {
    match &workspace.failure {
        Some(failure) => format!("{} ({failure})", workspace.status),
        None => workspace.status.clone(),
    }
}

/// How a status is to be taken.
pub(super) fn tone(status: &str) -> Tone {
    match status {
        "online" => Tone::Good,
        "provisioning" | "degraded" | "hibernating" | "awaiting_agent" => Tone::Warn,
        "failed" | "offline" => Tone::Bad,
        "paused" | "hibernated" | "removed" => Tone::Dim,
        _ => Tone::Plain,
    }
}

/// The part of an id that people type.
pub(super) fn short(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}

/// Bytes in the largest unit that leaves a whole number of them.
pub(super) fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{} KiB", bytes >> 10),
        1_048_576..1_073_741_824 => format!("{} MiB", bytes >> 20),
        _ => format!("{} GiB", bytes >> 30),
    }
}

/// `1 entry`, `3 entries`.
pub(super) fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_counts_until_a_date_says_more() {
        let ago = |seconds| age(&(Timestamp::now() - jiff::SignedDuration::from_secs(seconds)).to_string());
        assert_eq!(ago(5 * 60 + 30), "5m");
        assert_eq!(ago(3 * 3600 + 30), "3h");
        assert_eq!(ago(12 * 86_400 + 30), "12d");
        assert_eq!(ago(-90), "0s");
        assert_eq!(age("2020-03-04T12:00:00Z"), "2020-03-04");
    }
}
