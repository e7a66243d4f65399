//! Named places between durable steps at which a test ends the process immediately.
//!
//! A durable step changes something that outlives this process: a transaction, a file beside the database, a change in
//! the engine. Each step has a place right before it and one right after it. At that point everything done so far is
//! durable, and no caller has received an answer. A transaction is named by its label in `store`; its place before is
//! the open transaction that contains the change. `tests/app` checks that every step has its two places and that
//! every place has a step. `tests/assurance/crash_points.rs` hits each place once, in a daemon that uses real Podman.
//!
//! Only builds with the feature `assurance` contain the places; in other builds the functions are empty.

/// Environment variable that selects the place where the process ends: `before` or `after`, and the step. With `2nd` in
/// front of the step, the first passage is ignored: `after 2nd start: make a volume`.
pub const VARIABLE: &str = "ASSURANCE_CRASH_AT";

/// Every durable step, with a description.
pub const STEPS: &[(&str, &str)] = &[
    // Creating and changing the registry itself.
    ("lock: say who holds it", "a lock file names its process: of the data directory, of the identity"),
    ("migrate: copy the file", "a database of an older schema is copied beside itself"),
    ("migrate: commit the migrations", "the schema is made, or brought up to date"),
    ("found registry", "a new database is given its identity"),
    ("begin recovery", "a registry that was lost begins to hold what it does not know"),
    ("end recovery", "the hold ends"),
    ("become instance", "an empty registry takes over another identity"),
    ("identity: become another instance", "the mirror says so too"),
    ("identity: write the mirror", "the mirror says who the registry is"),
    ("identity: accept a copy", "the mirror names the directory it was copied to"),
    ("mirror: replace the file", "a mirror that is written whole takes the place of the last"),
    ("log: move it into the file", "a checkpoint: at the start, at a clean stop, and when the log has grown"),
    (
        "store: save what is open",
        "a database that was deleted or replaced while it was open is saved beside it",
    ),
    ("accept: make the sentinel", "an engine is marked as the one to trust"),
    ("accept engine", "the registry trusts that engine"),
    ("accept: write the mirror", "the mirror says that an engine was accepted"),
    ("reach: make the network", "the network of the workspaces, or of one of them, is there"),
    ("keep host reach", "how workspaces reach this host is kept for the next start"),
    // Creating and changing a workspace.
    ("create workspace", "the row of a new workspace"),
    ("patch workspace", "what people may change of a row"),
    ("adopt workspace", "the row of something unknown is rebuilt"),
    ("adopt container", "a known row takes over the container that a restored registry did not know"),
    ("take token over", "the token that a process holds becomes the current one"),
    // Starting a workspace.
    ("start: pull its image", "the image is on this machine"),
    ("start: make a volume", "a volume of the workspace"),
    ("start: repair its configuration volume", "a volume whose directory is gone gets one"),
    ("start: begin with an empty work volume", "the same for work that was lost, on a person's word"),
    ("edit workspace", "the row knows that it has a work volume"),
    ("allot", "a serial and a host port for the next container"),
    ("start: make its container", "a container that nothing names yet"),
    ("start: discard a container", "one that a start made and did not come to use is deleted"),
    ("start: give its container the name back", "a kept container loses a name of the trash"),
    ("begin start", "a new incarnation with a new token; older ones are revoked"),
    ("start: write its token", "the token's file"),
    ("start: write its configuration", "the configuration's file"),
    ("start: start its container", "the process runs"),
    // Status changes of a workspace.
    ("change status", "the row's status, with its event"),
    ("change status unless", "the same, unless it was heard or changed meanwhile"),
    ("stop: stop a container", "the process has ended"),
    ("pause workspace", "a row and those below it are to be stopped"),
    ("begin hibernation", "a row is to fall asleep"),
    ("note container end", "a container that ended by itself is written down, with when to start it again"),
    ("put off restart", "a restart that could not be tried is put off"),
    ("claim restart of unwell", "a start anew of what gives no good sign of life"),
    ("give back restart", "such a start that did not happen is taken back"),
    ("flag wedged", "what is busy and makes no progress is flagged"),
    // Reports and messages of agents.
    ("note beat", "a heartbeat"),
    ("note registration", "a registration, with its token"),
    ("note card", "what an agent says of itself"),
    ("note token use", "when a token was last used"),
    ("note activity at", "when a message last passed"),
    ("log activity", "rows of activity: messages that passed, and what an agent reports of its work"),
    ("queue message", "a message to an agent that polls, before its sender is answered"),
    ("note notice", "a notice of an agent to its user"),
    ("begin delegation", "a task that is to be handed to another workspace"),
    ("dispatch delegation", "it is about to be sent"),
    ("move delegation", "its end, or that it waits for an agent that polls"),
    ("take up delegations", "what a daemon before left open is ended, or begun again"),
    ("expire delegations", "those without a result for too long have failed"),
    ("remember", "a memory"),
    ("forget memory", "a memory is deleted"),
    ("note polled", "messages that an agent has polled"),
    // Issuing and revoking tokens.
    ("issue api token", "a token for a workspace, made by a person"),
    ("revoke token", "one of those is revoked"),
    ("issue admin token", "a token that may do everything"),
    ("revoke admin token", "one of those is revoked"),
    ("revoke stale tokens", "instance tokens whose container is gone are revoked"),
    // Moving to the trash, restoring and deleting.
    ("remove workspace", "rows are removed"),
    ("claim for trash", "things are claimed for the trash"),
    ("put away: rename a container", "a container bears its trash name"),
    ("drop from trash", "a claimed container that is gone is left out of the entry"),
    ("keep in trash", "the entry is complete"),
    ("undelete workspace", "a removal is taken back"),
    ("begin restore", "unknown things are to come back"),
    ("restore: rename a container", "a container bears its own name again"),
    ("finish restore", "the entry is gone, its things are back"),
    ("begin delete", "an entry is to be deleted for good"),
    ("delete: delete a container", "its container is deleted"),
    ("delete: delete a volume", "a volume of it is deleted"),
    ("finish delete", "the entry is gone"),
    ("finish purge", "nothing of a removed workspace is left"),
    ("keep after all", "an entry that is in use, or cannot go back, is kept"),
    // Sweep passes.
    ("sweep: apply an action", "one action of a pass, whatever steps it has"),
    ("hold plan", "a plan that hits too much waits for a person"),
    ("approve plan", "a person allows it"),
    ("drop held plan", "one that is done, or has lost its cause, is dropped"),
    ("tell", "an event without a change"),
    ("forget events", "old events are deleted"),
    ("forget removed", "old removed rows are deleted"),
    ("forget: delete a network", "the network of a removed workspace is deleted"),
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
        location: String,
        moment: String,
        step: String,
        to_pass: AtomicU32,
    }

    fn armed() -> Option<&'static Armed> {
        static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
        let read = || {
            let location = std::env::var(super::VARIABLE).ok()?;
            let (moment, step) = location.split_once(' ')?;
            let (to_pass, step) = match step.split_once(' ') {
                Some(("2nd", step)) => (1, step),
                _ => (0, step),
            };
            let (moment, step) = (moment.to_owned(), step.to_owned());
            Some(Armed { moment, step, to_pass: AtomicU32::new(to_pass), location: location.clone() })
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
        let _unwritten = writeln!(std::io::stderr(), "crash point: {}", armed.location);
        let _sent = kill_process(getpid(), Signal::KILL);
        // Not reached: the kernel kills the process first.
        std::process::abort();
    }
}
