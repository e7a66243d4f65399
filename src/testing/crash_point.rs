//! Named places between durable steps at which a test ends the process immediately.
//!
//! A durable step changes something that outlives this process: a transaction, a file beside the database, a change in
//! the engine. Each step has one place right before it and one right after it. When a place is reached, all earlier
//! steps are durable, and no caller has received an answer to the current one. The name of a transaction is its label
//! in `store`; its first place is inside the open transaction, after the last statement. `tests/architecture` checks
//! that every step has its two places and that every place has a step. `tests/assurance/crash_points` kills a daemon
//! once at each place, with real Podman.
//!
//! Only builds with the feature `assurance` contain the places; in other builds the functions are empty.

/// Environment variable that selects the place where the process ends: `before` or `after`, a space, and the step. With
/// `2nd` in front of the step, the process ends when it reaches the place for the second time: `after 2nd start: create
/// a volume`.
pub const VARIABLE: &str = "ASSURANCE_CRASH_AT";

/// Every durable step, with a description of what the step changes.
pub const STEPS: &[(&str, &str)] = &[
    // Creating and changing the registry itself.
    (
        "lock: write the process id",
        "the lock file of the data directory, or of the identity, contains the process id",
    ),
    ("migrate: copy the file", "a database with an older schema is backed up in its directory"),
    ("migrate: commit the migrations", "the schema is created or migrated"),
    ("create registry", "a new database gets its identity"),
    ("begin recovery", "a registry is marked as recovering after a loss"),
    ("end recovery", "the registry is no longer recovering"),
    ("become instance", "an empty registry takes over another identity"),
    ("identity: become another instance", "the mirror file gets the identity that was taken over"),
    ("identity: write the mirror", "the mirror file gets the registry's identity"),
    ("identity: accept a copy", "the mirror file names the directory to which the data was copied"),
    ("mirror: replace the file", "a completely written mirror file replaces the previous one"),
    (
        "log: checkpoint into the database",
        "a WAL checkpoint: at the start, at a clean stop, and when the WAL has grown",
    ),
    (
        "store: save the open database",
        "a database that was deleted or replaced while open is saved to a new file in its directory",
    ),
    ("accept: create the sentinel", "the sentinel marks an engine as trusted"),
    ("accept engine", "the registry trusts the engine that has the sentinel"),
    ("accept: write the mirror", "the mirror file records the accepted engine"),
    ("reach: create the network", "the shared network, or the network of one workspace, exists"),
    ("store host reach", "how workspaces reach this host is stored for the next start"),
    // Creating and changing a workspace.
    // Operations.
    ("accept operation", "an operation is stored whose order changes no row"),
    ("park operation", "an operation is marked as waiting for Podman"),
    ("continue operation", "a waiting operation is marked as running again"),
    ("cancel operation", "an operation is cancelled, or its worker is to abandon it"),
    ("end operation", "the result of an operation is stored, and the next one is marked as running"),
    ("create workspace", "the row of a new workspace exists, and the operation that starts it"),
    ("patch workspace", "the row has new values in fields that users may change"),
    ("adopt workspace", "the row of an unknown workspace is rebuilt"),
    ("adopt container", "a known row takes over a container that the restored registry did not know"),
    ("take over token", "the token in the token file becomes the current one"),
    // Starting a workspace.
    ("start: pull its image", "the image is on this machine"),
    ("start: create a volume", "a volume of the workspace exists"),
    ("start: repair its configuration volume", "a volume whose directory is missing gets a new directory"),
    (
        "start: create an empty work volume",
        "an empty volume replaces a lost work volume, on the operator's order",
    ),
    ("edit workspace", "the row records its work volume, its written configuration, or its host port"),
    ("allocate port", "the row has a serial number and a host port for the next container"),
    ("start: create its container", "a container exists to which no row refers yet"),
    ("start: discard a container", "a container that a start created and did not use is deleted"),
    (
        "start: restore the container name",
        "a container that is started again gets its regular name instead of its trash name",
    ),
    ("begin start", "the row has a new incarnation and a new token; older tokens are revoked"),
    ("start: write its token", "the token file contains the new token"),
    ("start: write its configuration", "the configuration file is written"),
    ("start: start its container", "the container's process runs"),
    // Status changes of a workspace.
    ("change status", "the row has a new status, and the event is written"),
    ("change status under guard", "the row has a new status, if no heartbeat and no other change came first"),
    ("stop: stop a container", "the process has stopped"),
    ("pause workspace", "a workspace and its descendants are marked as paused before their containers stop"),
    ("begin hibernation", "a workspace is marked as hibernating before its container stops"),
    ("record container exit", "an unexpected exit is recorded, with the time of the next restart"),
    ("postpone restart", "a restart that could not be tried is postponed"),
    ("charge degraded restart", "the restart of a degraded workspace is charged to its restart budget"),
    ("refund restart", "a charged restart that did not happen is refunded"),
    ("flag wedged", "a busy workspace without progress is flagged"),
    // Reports and messages of agents.
    ("record heartbeat", "a heartbeat is recorded"),
    ("record registration", "an agent's registration and its token are recorded"),
    ("record card", "an agent's card is recorded"),
    ("record token use", "the time of a token's last use is recorded"),
    ("record activity time", "the time of a workspace's last message is recorded"),
    ("log activity", "activity rows are written: forwarded messages and agents' reports about their work"),
    ("queue message", "a message for an agent that polls is stored before its sender gets the answer"),
    ("record notice", "an agent's notice to its user is stored"),
    ("begin delegation", "a task for another workspace is stored before it is sent"),
    ("dispatch delegation", "the task is marked as sent, right before it is sent"),
    ("update delegation", "the result of a task, or that the task waits for an agent that polls"),
    ("resume delegations", "tasks that the previous daemon did not finish are ended or sent again"),
    ("expire delegations", "tasks without a result for too long are marked as failed"),
    ("store memory", "a memory of an agent is stored"),
    ("delete memory", "a memory of an agent is deleted"),
    ("record polled", "messages that an agent has polled are marked as no longer waiting"),
    // Issuing and revoking tokens.
    ("issue api token", "the operator issues an API token for a workspace"),
    ("revoke token", "an API token is revoked"),
    ("issue admin token", "an admin token is issued, which has all permissions"),
    ("revoke admin token", "an admin token is revoked"),
    ("revoke stale tokens", "instance tokens of workspaces without a container are revoked"),
    // Moving to the trash, restoring and deleting.
    ("remove workspace", "rows are marked as removed"),
    ("claim for trash", "the entry for containers and volumes that are moved to the trash is written"),
    ("move to trash: rename a container", "a container has its trash name"),
    ("drop from trash", "a container that no longer exists is removed from the trash entry"),
    ("mark in trash", "the trash entry is marked as complete"),
    ("undelete workspace", "a removal is undone"),
    ("begin restore", "a trash entry is marked as being restored"),
    ("restore: rename a container", "a container has its own name again"),
    ("finish restore", "the restore is complete; the row of the trash entry is deleted"),
    ("begin delete", "a trash entry is marked as being deleted"),
    ("delete: delete a container", "the container of a trash entry is deleted"),
    ("delete: delete a volume", "a volume of a trash entry is deleted"),
    ("finish delete", "the row of the trash entry is deleted"),
    ("finish purge", "the purge of a removed workspace is marked as complete"),
    ("cancel transition", "an entry that cannot be deleted or restored is marked as kept again"),
    // Sweep passes.
    ("sweep: apply an action", "one action of a pass is carried out, with all its steps"),
    ("hold plan", "a plan above the breaker's limit waits for approval"),
    ("approve plan", "the operator approves a held plan"),
    ("drop held plan", "a held plan that was applied, or is no longer needed, is dropped"),
    ("emit event", "an event is written that belongs to no other change in the database"),
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
        // The process is killed even if this line cannot be written. The test expects the line, and fails if it is
        // missing.
        let _unwritten = writeln!(std::io::stderr(), "crash point: {}", armed.place);
        let _sent = kill_process(getpid(), Signal::KILL);
        // Not reached: the kernel kills the process first.
        std::process::abort();
    }
}
