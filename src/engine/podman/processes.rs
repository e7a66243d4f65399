//! Processes of Podman and its containers, as seen on this host.
//!
//! Podman learns of a container's exit from conmon, the process that monitors it. If conmon was killed, Podman never
//! learns of the exit. It then reports the container as running or stopping forever, and neither a stop nor a start
//! changes that. ostler can detect that the process is missing only if it sees the same processes as Podman. Even then,
//! [`super`] asks Podman's runtime for confirmation.

use std::{fs, time::Duration};

use rustix::process::{Pid, PidfdFlags, Signal, getpgid, kill_process_group, pidfd_open, pidfd_send_signal};

use crate::domain::ids::ContainerId;

/// Whether a process exists and has not ended.
pub(super) fn is_alive(process: i64) -> bool {
    begun_at(process).is_some()
}

/// Start time of a live process, in clock ticks since the boot. Together with the process id it is unique.
fn begun_at(process: i64) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The second field is the process name in parentheses, which may itself contain spaces and parentheses. Fields are
    // therefore counted after the last closing parenthesis.
    let mut fields = stat.rsplit(')').next()?.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") { None } else { fields.nth(18).map(str::to_owned) }
}

/// A process, distinguished from a later one with the same id.
#[derive(Debug)]
pub(super) struct Process {
    number: i64,
    begun_at: String,
}

impl Process {
    /// The process that has this id now. `None` for ids up to 1.
    pub(super) fn find(number: i64) -> Option<Self> {
        if number <= 1 {
            return None;
        }
        Some(Self { number, begun_at: begun_at(number)? })
    }

    pub(super) fn number(&self) -> i64 {
        self.number
    }

    /// Whether the process has not ended.
    pub(super) fn is_alive(&self) -> bool {
        begun_at(self.number).is_some_and(|begun_at| begun_at == self.begun_at)
    }

    /// Signals the process, and its process group if it leads one, which includes the processes that a command started.
    /// `false` if it cannot be signalled.
    pub(super) fn signal(&self, signal: Signal) -> bool {
        let Some(pid) = i32::try_from(self.number).ok().and_then(Pid::from_raw) else { return false };
        // The descriptor is opened before the check. A signal through it reaches the checked process, even if another
        // process gets the same id in between. A signal to the process group uses the id.
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

/// Processor time that a process has used, and its resident memory in bytes.
pub(super) fn used_by(process: i32) -> Option<(Duration, u64)> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let fields: Vec<_> = stat.rsplit(')').next()?.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = resident.trim().strip_suffix("kB")?.trim().parse().ok()?;
    // The kernel reports 100 ticks a second to user space on every architecture that Podman runs on.
    Some((Duration::from_millis(ticks * 10), kib << 10))
}

/// The conmon of one container, which writes its log.
#[derive(Debug)]
pub(super) struct Conmon(Process);

impl Conmon {
    /// The process with this id, if ostler can see it and it is the conmon of this container.
    pub(super) fn find(process: i64, container: &ContainerId) -> Option<Self> {
        let found = Process::find(process)?;
        let command = fs::read(format!("/proc/{process}/cmdline")).ok()?;
        holds(&command, container).then_some(Self(found))
    }

    /// Whether the process is running. After it has exited, the log is complete.
    pub(super) fn is_alive(&self) -> bool {
        self.0.is_alive()
    }
}

/// Whether this container has a conmon, whatever Podman reports. If the service is killed after it starts a conmon and
/// before it records that, Podman does not know of the conmon.
pub(super) fn has_conmon(container: &ContainerId) -> bool {
    let Ok(processes) = fs::read_dir("/proc") else { return false };
    processes.flatten().any(|process| {
        let command = fs::read(process.path().join("cmdline")).unwrap_or_default();
        holds(&command, container)
    })
}

/// Whether this is the command line of this container's conmon: `conmon … -c ID …`.
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
    fn conmon_is_recognized_by_program_and_container_id() {
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
    fn process_check_finds_own_pid_and_rejects_invalid_pids() {
        assert!(is_alive(i64::from(std::process::id())));
        assert!(!is_alive(0));
        assert!(!is_alive(i64::MAX));
    }
}
