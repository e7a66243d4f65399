//! Named places between durable steps at which a test ends the process immediately.
//!
//! A durable step changes something that outlives this process: a transaction, a file beside the database, a change in
//! the engine. Each step has a place right before it and one right after it. At that point everything done so far is
//! durable, and no caller has received an answer. A transaction is named by its label in `store`; its place before is
//! the open transaction that contains the change. `tests/architecture` checks that every step has its two places
//! and that every place has a step. `tests/assurance/crash_points` kills a daemon once at each place, with real Podman.
//!
//! Only builds with the feature `assurance` contain the places; in other builds the functions are empty.

/// Environment variable that selects the place where the process ends: `before` or `after`, and the step. With `2nd` in
/// front of the step, the first pass through it is ignored: `after 2nd start: create a volume`.
pub const VARIABLE: &str = "ASSURANCE_CRASH_AT";

/// Every durable step, with a description.
pub const STEPS: &[(&str, &str)] = &[
    // Creating and changing the registry itself.
    (
        "lock: write the process id",
        "the process id is written to a lock file: of the data directory, of the identity",
    ),
    ("migrate: copy the file", "a database of an older schema is backed up beside itself"),
    ("migrate: commit the migrations", "the schema is created or migrated"),
    ("create registry", "a new database gets its identity"),
    ("begin recovery", "a registry is marked as recovering after a loss"),
    ("end recovery", "the registry is no longer recovering"),
    ("become instance", "an empty registry takes over another identity"),
    ("identity: become another instance", "the mirror file gets that identity"),
    ("identity: write the mirror", "the mirror file gets the registry's identity"),
    ("identity: accept a copy", "the mirror file gets the directory that the data was copied to"),
    ("mirror: replace the file", "a completely written mirror file replaces the previous one"),
    (
        "log: checkpoint into the database",
        "a WAL checkpoint: at the start, at a clean stop, and when the WAL has grown",
    ),
    (
        "store: save the open database",
        "a database that was deleted or replaced while open is saved beside its path",
    ),
    ("accept: create the sentinel", "the sentinel marks an engine as trusted"),
    ("accept engine", "the registry trusts that engine"),
    ("accept: write the mirror", "the mirror file records the accepted engine"),
    ("reach: create the network", "the shared network, or the network of one workspace, exists"),
    ("store host reach", "how workspaces reach this host is stored for the next start"),
    // Creating and changing a workspace.
    ("create workspace", "the row of a new workspace"),
    ("patch workspace", "the fields of a row that users may change"),
    ("adopt workspace", "the row of an unknown workspace is rebuilt"),
    ("adopt container", "a known row takes over a container that the restored registry did not know"),
    ("take over token", "the token in the token file becomes the current one"),
    // Starting a workspace.
    ("start: pull its image", "the image is on this machine"),
    ("start: create a volume", "a volume of the workspace"),
    ("start: repair its configuration volume", "a volume whose directory is missing gets a new directory"),
    ("start: create an empty work volume", "an empty volume replaces lost work, on the operator's order"),
    ("edit workspace", "the row records that it has a work volume"),
    ("allocate port", "a serial number and a host port for the next container"),
    ("start: create its container", "a container that no row refers to yet"),
    ("start: discard a container", "a container that a start created and did not use is deleted"),
    ("start: restore the container name", "a kept container gets its own name instead of its trash name"),
    ("begin start", "a new incarnation with a new token; older ones are revoked"),
    ("start: write its token", "the token file"),
    ("start: write its configuration", "the configuration file"),
    ("start: start its container", "the process runs"),
    // Status changes of a workspace.
    ("change status", "the row's status, with its event"),
    ("change status under guard", "the same, unless a heartbeat or another change came first"),
    ("stop: stop a container", "the process has stopped"),
    ("pause workspace", "a row and its descendants are marked as paused, before their containers stop"),
    ("begin hibernation", "a row is marked as hibernating, before its container stops"),
    ("record container exit", "an unexpected exit, with the time of the next restart"),
    ("postpone restart", "a restart that could not be tried is postponed"),
    ("charge degraded restart", "the restart of a degraded workspace is charged to its restart budget"),
    ("refund restart", "a charged restart that did not happen is refunded"),
    ("flag wedged", "a busy workspace without progress is flagged"),
    // Reports and messages of agents.
    ("record heartbeat", "a heartbeat"),
    ("record registration", "a registration, with its token"),
    ("record card", "an agent's card"),
    ("record token use", "the time of a token's last use"),
    ("record activity time", "the time of the last message"),
    ("log activity", "activity rows: forwarded messages, and what agents report about their work"),
    ("queue message", "a message to an agent that polls, before its sender gets the answer"),
    ("record notice", "an agent's notice to its user"),
    ("begin delegation", "a task that is to be sent to another workspace"),
    ("dispatch delegation", "the task is about to be sent"),
    ("update delegation", "its result, or that it waits for an agent that polls"),
    ("resume delegations", "delegations left open by the previous daemon are ended or sent again"),
    ("expire delegations", "delegations without a result for too long have failed"),
    ("store memory", "a memory"),
    ("delete memory", "a memory is deleted"),
    ("record polled", "messages that an agent has polled"),
    // Issuing and revoking tokens.
    ("issue api token", "an API token of a workspace, issued by the operator"),
    ("revoke token", "an API token is revoked"),
    ("issue admin token", "a token with all permissions"),
    ("revoke admin token", "an admin token is revoked"),
    ("revoke stale tokens", "instance tokens without a container are revoked"),
    // Moving to the trash, restoring and deleting.
    ("remove workspace", "rows are marked as removed"),
    ("claim for trash", "containers and volumes are claimed for the trash"),
    ("move to trash: rename a container", "a container has its trash name"),
    ("drop from trash", "a claimed container that no longer exists is removed from the entry"),
    ("mark in trash", "the entry is complete"),
    ("undelete workspace", "a removal is undone"),
    ("begin restore", "an entry is claimed for restoring"),
    ("restore: rename a container", "a container has its own name again"),
    ("finish restore", "the entry is deleted; its containers and volumes are restored"),
    ("begin delete", "an entry is claimed for deletion"),
    ("delete: delete a container", "its container is deleted"),
    ("delete: delete a volume", "a volume of it is deleted"),
    ("finish delete", "the entry is deleted"),
    ("finish purge", "nothing of a removed workspace is left"),
    ("cancel transition", "an entry that is in use, or cannot be restored, stays in the trash"),
    // Sweep passes.
    ("sweep: apply an action", "one action of a pass, with all its steps"),
    ("hold plan", "a plan above the breaker's limit waits for approval"),
    ("approve plan", "the operator approves it"),
    ("drop held plan", "a plan that was applied, or has lost its cause, is dropped"),
    ("emit event", "an event without a change"),
    ("delete old events", "old events are deleted"),
    ("delete old removed rows", "old removed rows are deleted"),
    ("clean up: delete a network", "the network of a removed workspace is deleted"),
];

/// Marks the place right before the durable step of this name.
#[cfg(not(feature = "assurance"))]
pub const fn before(_step: &'static str) {}

/// Marks the place right after the durable step of this name.
#[cfg(not(feature = "assurance"))]
pub const fn after(_step: &'static str) {}

#[cfg(feature = "assurance")]
pub use places::{after, before};

#[cfg(feature = "assurance")]
mod places {
    //! The implementation for builds that contain the places.

    use std::{
        io::Write,
        sync::{
            OnceLock,
            atomic::{AtomicU32, Ordering},
        },
    };

    use rustix::process::{Signal, getpid, kill_process};

    /// The place where this process is to end.
    struct Armed {
        place: String,
        moment: String,
        step: String,
        to_pass: AtomicU32,
    }

    fn armed() -> Option<&'static Armed> {
        static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
        let read = || {
            let place = std::env::var(super::VARIABLE).ok()?;
            let (moment, step) = place.split_once(' ')?;
            let (to_pass, step) = match step.split_once(' ') {
                Some(("2nd", step)) => (1, step),
                _ => (0, step),
            };
            let (moment, step) = (moment.to_owned(), step.to_owned());
            Some(Armed { moment, step, to_pass: AtomicU32::new(to_pass), place: place.clone() })
        };
        ARMED.get_or_init(read).as_ref()
    }

    /// Marks the place right before the durable step of this name.
    pub fn before(step: &'static str) {
        reach("before", step);
    }

    /// Marks the place right after the durable step of this name.
    pub fn after(step: &'static str) {
        reach("after", step);
    }

    fn reach(moment: &str, step: &str) {
        let Some(armed) = armed().filter(|armed| armed.moment == moment && armed.step == step) else {
            return;
        };
        let passed =
            armed.to_pass.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1));
        if passed.is_ok() {
            return;
        }
        // The process is killed even if this cannot be logged; the test that reads the log fails then.
        let _unwritten = writeln!(std::io::stderr(), "crash point: {}", armed.place);
        let _sent = kill_process(getpid(), Signal::KILL);
        // Not reached: the kernel kills the process first.
        std::process::abort();
    }
}
