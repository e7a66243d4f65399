//! Processes that Podman reports on, or should, looked at on this host.
//!
//! Podman hears of a container's end from conmon, the process that holds it. Where conmon was killed nobody ever
//! tells it: the container is called running, or stopping for ever, and neither a stop nor a start gets it out of
//! that. That the process is gone can be seen from here only if this process sees the same processes, and even then
//! it is only a suspicion, which [`super`] has Podman's runtime confirm.

use std::{fs, time::Duration};

use rustix::process::{Pid, PidfdFlags, Signal, getpgid, kill_process_group, pidfd_open, pidfd_send_signal};

use crate::domain::ids::ContainerId;

/// Whether a process is there and has not ended.
pub(super) fn is_alive(process: i64) -> bool {
    begun_at(process).is_some()
}

/// When a process that has not ended began, in clock ticks since the boot: with its number, this names it for good.
fn begun_at(process: i64) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The second field is the name, in brackets, and may hold spaces and brackets: count from behind it.
    let mut fields = stat.rsplit(')').next()?.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") { None } else { fields.nth(18).map(str::to_owned) }
}

/// A process, told apart from a later one of the same number.
#[derive(Debug)]
pub(super) struct Process {
    number: i64,
    begun_at: String,
}

impl Process {
    /// The process that has this number now.
    pub(super) fn find(number: i64) -> Option<Self> {
        if number <= 1 {
            return None;
        }
        Some(Self { number, begun_at: begun_at(number)? })
    }

    pub(super) fn number(&self) -> i64 {
        self.number
    }

    /// Whether it has not ended.
    pub(super) fn is_alive(&self) -> bool {
        begun_at(self.number).is_some_and(|begun_at| begun_at == self.begun_at)
    }

    /// Signals it and its process group, if it leads one: what a command started belongs to that. `false` where it
    /// cannot be signalled.
    pub(super) fn signal(&self, signal: Signal) -> bool {
        let Some(pid) = i32::try_from(self.number).ok().and_then(Pid::from_raw) else { return false };
        // Held by a descriptor, so that the number cannot pass to another process between the look and the signal.
        let Ok(held) = pidfd_open(pid, PidfdFlags::empty()) else { return false };
        if !self.is_alive() {
            return false;
        }
        if getpgid(Some(pid)).is_ok_and(|group| group == pid) {
            kill_process_group(pid, signal).is_ok()
        } else {
            pidfd_send_signal(held, signal).is_ok()
        }
    }
}

/// Processor time that a process has used, and the memory it has resident, in bytes.
pub(super) fn used_by(process: i32) -> Option<(Duration, u64)> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let fields: Vec<_> = stat.rsplit(')').next()?.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = resident.trim().strip_suffix("kB")?.trim().parse().ok()?;
    // The kernel counts in 100 ticks a second towards user space on every architecture Podman runs on.
    Some((Duration::from_millis(ticks * 10), kib << 10))
}

/// The conmon of one container, which writes its log.
#[derive(Debug)]
pub(super) struct Conmon(Process);

impl Conmon {
    /// The process of this number, if it is seen here as a conmon that holds this container.
    pub(super) fn find(process: i64, container: &ContainerId) -> Option<Self> {
        let found = Process::find(process)?;
        let command = fs::read(format!("/proc/{process}/cmdline")).ok()?;
        holds(&command, container).then_some(Self(found))
    }

    /// Whether it goes on. Its log is complete once it does not.
    pub(super) fn is_alive(&self) -> bool {
        self.0.is_alive()
    }
}

/// Whether a conmon holds this container, whatever Podman says of it: one that was started by a service which then
/// was killed, before it wrote down that there is one, is nobody's.
pub(super) fn has_conmon(container: &ContainerId) -> bool {
    let Ok(processes) = fs::read_dir("/proc") else { return false };
    processes.flatten().any(|process| {
        let command = fs::read(process.path().join("cmdline")).unwrap_or_default();
        holds(&command, container)
    })
}

/// Whether this is the command line of a conmon that holds this container: `conmon … -c ID …`.
fn holds(command: &[u8], container: &ContainerId) -> bool {
    let mut words = command.split(|byte| *byte == 0);
    let program = words.next().and_then(|path| path.rsplit(|byte| *byte == b'/').next());
    let words: Vec<_> = words.collect();
    program == Some(b"conmon") && words.windows(2).any(|pair| pair == [b"-c", container.as_str().as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conmon_is_told_by_its_program_and_the_id_it_was_given() {
        let container: ContainerId = "ab".repeat(32).try_into().expect("an id");
        let other: ContainerId = "cd".repeat(32).try_into().expect("an id");
        let command =
            |program: &str, option: &str| format!("{program}\0--log-level\0{option}\0{container}\0-u\0");
        assert!(holds(command("/usr/bin/conmon", "-c").as_bytes(), &container));
        assert!(!holds(command("/usr/bin/conmon", "-c").as_bytes(), &other));
        assert!(!holds(command("/usr/bin/conmon", "-n").as_bytes(), &container));
        assert!(!holds(command("/usr/bin/vi", "-c").as_bytes(), &container));
        assert!(!holds(b"", &container));
    }

    #[test]
    fn this_process_is_alive_and_no_process_is_not() {
        assert!(is_alive(i64::from(std::process::id())));
        assert!(!is_alive(0));
        assert!(!is_alive(i64::MAX));
    }
}
