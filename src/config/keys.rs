//! The table of all keys: path, documentation, effect and field.

use super::{settings::Config, slot::Slot};
use crate::domain::runtime::Runtime;

/// When a change of a key takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// At a reload.
    AtReload,
    /// At a restart of the daemon: sockets, locks, deadlines of the engine client and periods of passes are read only
    /// when it starts.
    AtRestart,
}

/// A key of `T`.
pub(super) struct Key<T> {
    /// Dotted path: from the root of the file, or from the section of a runtime.
    pub(super) path: &'static str,
    /// Documentation of the key in the template.
    pub(super) doc: &'static str,
    /// Value that the template shows if the key is unset by default.
    pub(super) example: &'static str,
    /// When a change of the key takes effect.
    pub(super) effect: Effect,
    /// The field that the key sets.
    pub(super) slot: fn(&mut T) -> Slot<'_>,
}

impl<T> Key<T> {
    /// The environment variable for the key: `sweep.unknown_grace` is `OSTLER_SWEEP_UNKNOWN_GRACE`.
    pub(super) fn variable(&self) -> String {
        format!("OSTLER_{}", self.path.to_uppercase().replace('.', "_"))
    }
}

/// The keys outside `[runtimes]`, in the order of the template. Keys without a section come first, as TOML requires.
pub(super) const KEYS: &[Key<Config>] = &[
    Key {
        path: "data_dir",
        doc: "Directory of the registry: database, mirror, lock and the CLI's socket.\n\
              An absolute path on a local disk.",
        example: "",
        effect: Effect::AtRestart,
        slot: |config| Slot::Path(&mut config.data_dir),
    },
    Key {
        path: "runtime_dir",
        doc: "Directory of the locks that must not survive a reboot. An absolute path.",
        example: "",
        effect: Effect::AtRestart,
        slot: |config| Slot::Path(&mut config.runtime_dir),
    },
    Key {
        path: "ports",
        doc: "Range of host ports that ostler assigns to containers, both ends included.",
        example: "",
        effect: Effect::AtRestart,
        slot: |config| Slot::Ports(&mut config.ports),
    },
    Key {
        path: "engine.socket",
        doc: "Podman's socket. If unset, ostler uses the usual path for this user.",
        example: "\"unix:///run/podman/podman.sock\"",
        effect: Effect::AtRestart,
        slot: |config| Slot::Text(&mut config.engine.socket),
    },
    Key {
        path: "engine.read_deadline",
        doc: "Time limit for reading from the engine, such as listing or inspecting.",
        example: "",
        effect: Effect::AtRestart,
        slot: |config| Slot::Duration(&mut config.engine.read_deadline),
    },
    Key {
        path: "engine.change_deadline",
        doc: "Time limit for changes in the engine: create, start, stop, remove.",
        example: "",
        effect: Effect::AtRestart,
        slot: |config| Slot::Duration(&mut config.engine.change_deadline),
    },
    Key {
        path: "engine.pull_deadline",
        doc: "Time limit for pulling an image.",
        example: "",
        effect: Effect::AtRestart,
        slot: |config| Slot::Duration(&mut config.engine.pull_deadline),
    },
    Key {
        path: "engine.concurrent_starts",
        doc: "Maximum number of concurrent container starts; 0 means the number of processors.",
        example: "",
        effect: Effect::AtRestart,
        slot: |config| Slot::Number(&mut config.engine.concurrent_starts),
    },
    Key {
        path: "engine.log_size",
        doc: "Maximum size of a container's log, at least 64KiB. At this size Podman discards the log and\n\
              starts a new one. A container keeps the limit it was created with until `ostler recreate`.",
        example: "",
        effect: Effect::AtReload,
        slot: |config| Slot::LogSize(&mut config.engine.log_size),
    },
    Key {
        path: "network.isolate",
        doc: "Whether each workspace gets its own network, with packets between workspaces dropped.\n\
              Needs root and `nft`. The workspace tree controls discovery and messages, never packets.\n\
              Existing containers move to their own network at `ostler recreate`.",
        example: "",
        effect: Effect::AtRestart,
        slot: |config| Slot::Flag(&mut config.network.isolate),
    },
    Key {
        path: "network.port",
        doc: "TCP port on which agents register and send heartbeats.",
        example: "",
        effect: Effect::AtRestart,
        slot: |config| Slot::Port(&mut config.network.port),
    },
    Key {
        path: "network.platform_url",
        doc: "URL that agents use to reach ostler. If unset, ostler determines it.",
        example: "\"http://192.168.1.10:7717\"",
        effect: Effect::AtRestart,
        slot: |config| Slot::Url(&mut config.network.platform_url),
    },
    Key {
        path: "network.listen",
        doc: "Addresses to listen on for agents. If unset: loopback, and the address at which workspaces\n\
              reach this host.",
        example: "[\"127.0.0.1\", \"192.168.1.10\"]",
        effect: Effect::AtRestart,
        slot: |config| Slot::Addresses(&mut config.network.listen),
    },
    Key {
        path: "access.root_siblings",
        doc: "Whether workspaces without a parent may discover and message each other.",
        example: "",
        effect: Effect::AtReload,
        slot: |config| Slot::Flag(&mut config.access.root_siblings),
    },
    Key {
        path: "access.wakes_per_hour",
        doc: "How many times per hour one workspace may wake another that is hibernated.",
        example: "",
        effect: Effect::AtReload,
        slot: |config| Slot::Number(&mut config.access.wakes_per_hour),
    },
    Key {
        path: "external.allow_private",
        doc: "Whether external agents may have private addresses (10/8, 192.168/16, …).",
        example: "",
        effect: Effect::AtReload,
        slot: |config| Slot::Flag(&mut config.external.allow_private),
    },
    Key {
        path: "external.allow_loopback",
        doc: "Whether external agents may run on this machine.",
        example: "",
        effect: Effect::AtReload,
        slot: |config| Slot::Flag(&mut config.external.allow_loopback),
    },
    Key {
        path: "restart.first_backoff",
        doc: "Delay before the restart after an unexpected exit; doubled after each further exit.",
        example: "",
        effect: Effect::AtReload,
        slot: |config| Slot::Duration(&mut config.restart.first_backoff),
    },
    Key {
        path: "restart.longest_backoff",
        doc: "Maximum delay before a restart.",
        example: "",
        effect: Effect::AtReload,
        slot: |config| Slot::Duration(&mut config.restart.longest_backoff),
    },
    Key {
        path: "restart.reset_after",
        doc: "Time online after which the restart budget is reset.",
        example: "",
        effect: Effect::AtReload,
        slot: |config| Slot::Duration(&mut config.restart.reset_after),
    },
    Key {
        path: "restart.park_after_exits",
        doc: "Number of exits within the window at which the workspace is parked: it stays down until a user\n\
              starts it.",
        example: "",
        effect: Effect::AtReload,
        slot: |config| Slot::Ends(&mut config.restart.park_after_exits),
    },
    Key {
        path: "restart.window",
        doc: "Window in which unexpected exits are counted.",
        example: "",
        effect: Effect::AtReload,
        slot: |config| Slot::Duration(&mut config.restart.window),
    },
    Key {
        path: "sweep.absence_grace",
        doc: "How long a container must be absent before its instance tokens are revoked.",
        example: "",
        effect: Effect::AtReload,
        slot: |config| Slot::Duration(&mut config.sweep.absence_grace),
    },
    Key {
        path: "sweep.unknown_grace",
        doc: "How long a container or volume without a workspace in the registry is observed before it is\n\
              moved to the trash.",
        example: "",
        effect: Effect::AtReload,
        slot: |config| Slot::Duration(&mut config.sweep.unknown_grace),
    },
    Key {
        path: "sweep.trash_retention",
        doc: "How long entries stay in the trash and a removal can be undone.",
        example: "",
        effect: Effect::AtReload,
        slot: |config| Slot::Duration(&mut config.sweep.trash_retention),
    },
    Key {
        path: "sweep.event_retention",
        doc: "How long events are kept; `ostler why` shows no older ones.",
        example: "",
        effect: Effect::AtReload,
        slot: |config| Slot::Duration(&mut config.sweep.event_retention),
    },
    Key {
        path: "sweep.check_interval",
        doc: "Interval between listings of all containers. Container events are handled at once; the listing\n\
              finds changes whose events were missed.",
        example: "",
        effect: Effect::AtRestart,
        slot: |config| Slot::Duration(&mut config.sweep.check_interval),
    },
    Key {
        path: "log.level",
        doc: "Log level: error, warn, info, debug, trace, or a filter such as\n\
              \"info,ostler::sweep=debug\".",
        example: "",
        effect: Effect::AtReload,
        slot: |config| Slot::LogFilter(&mut config.log.level),
    },
    Key {
        path: "log.format",
        doc: "\"pretty\", \"json\", or \"auto\": pretty on a terminal, JSON otherwise.",
        example: "",
        effect: Effect::AtRestart,
        slot: |config| Slot::LogFormat(&mut config.log.format),
    },
];

/// The keys of one `[runtimes.NAME]` section.
pub(super) const RUNTIME_KEYS: &[Key<Runtime>] = &[
    Key {
        path: "image",
        doc: "Image of workspaces for which `ostler create` names no image.",
        example: "\"docker.io/library/alpine:3\"",
        effect: Effect::AtReload,
        slot: |runtime| Slot::Text(&mut runtime.image),
    },
    Key {
        path: "command",
        doc: "Command of workspaces for which `ostler create` names none. If unset, the image's own command.",
        example: "[\"agent\", \"--listen\", \"0.0.0.0:8000\"]",
        effect: Effect::AtReload,
        slot: |runtime| Slot::Words(&mut runtime.command),
    },
    Key {
        path: "user",
        doc: "User that the agent runs as. This user owns the workspace's volumes and token file.",
        example: "",
        effect: Effect::AtReload,
        slot: |runtime| Slot::User(&mut runtime.user),
    },
    Key {
        path: "readiness",
        doc: "When a started workspace counts as online: \"container\" once its container has run for\n\
              two seconds, \"heartbeat\" at the agent's first heartbeat.",
        example: "",
        effect: Effect::AtReload,
        slot: |runtime| Slot::Readiness(&mut runtime.readiness),
    },
    Key {
        path: "memory",
        doc: "Memory limit. If unset, the limit of the workspace's tier.",
        example: "\"512MiB\"",
        effect: Effect::AtReload,
        slot: |runtime| Slot::Memory(&mut runtime.memory_bytes),
    },
    Key {
        path: "cpus",
        doc: "CPU limit in cores. If unset, the limit of the workspace's tier.",
        example: "1.5",
        effect: Effect::AtReload,
        slot: |runtime| Slot::Cores(&mut runtime.cpus),
    },
    Key {
        path: "pids",
        doc: "Limit on processes and threads. If unset, the limit of the workspace's tier.",
        example: "512",
        effect: Effect::AtReload,
        slot: |runtime| Slot::Count(&mut runtime.pids),
    },
    Key {
        path: "provisioning_limit",
        doc: "Time limit of a start until the workspace is online. A start that takes longer is marked as\n\
              failed.",
        example: "",
        effect: Effect::AtReload,
        slot: |runtime| Slot::Duration(&mut runtime.provisioning_limit),
    },
    Key {
        path: "stop_grace",
        doc: "Time between the stop signal and the kill when a container is stopped.",
        example: "",
        effect: Effect::AtReload,
        slot: |runtime| Slot::Duration(&mut runtime.stop_grace),
    },
    Key {
        path: "env",
        doc: "Environment variables added to every container of this runtime.",
        example: "{ LANG = \"C.UTF-8\" }",
        effect: Effect::AtReload,
        slot: |runtime| Slot::Env(&mut runtime.env),
    },
    Key {
        path: "config_template",
        doc: "Content of /configs/config.yaml for workspaces that are created without a configuration.",
        example: "\"\"\"\nmodel: local\n\"\"\"",
        effect: Effect::AtReload,
        slot: |runtime| Slot::Text(&mut runtime.config_template),
    },
    Key {
        path: "privileged_tiers",
        doc: "Tiers whose containers run privileged, which is effectively root access to this machine.",
        example: "",
        effect: Effect::AtReload,
        slot: |runtime| Slot::Tiers(&mut runtime.privileged_tiers),
    },
];

/// Whether there are keys below this path.
pub(super) fn is_section(path: &str) -> bool {
    KEYS.iter().any(|key| key.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
}

/// Checks the name of a runtime. The name is used in commands and labels; `external` is reserved for agents outside
/// containers.
pub(super) fn check_runtime_name(name: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
    if name == "external" {
        return Err(
            "`runtimes.external`: this name is reserved for external agents; choose another".to_owned()
        );
    }
    if name.is_empty() || name.len() > 63 || !name.chars().all(allowed) {
        return Err(format!(
            "`runtimes.{name}`: a runtime's name must have 1 to 63 characters: lower-case letters, digits, `-`, \
             `_`"
        ));
    }
    Ok(())
}
