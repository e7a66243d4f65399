//! The registry's database: the only module that uses SQLite.
//!
//! The rest of ostler accesses storage through [`Store`]: one method per query or change, taking and returning domain
//! types. No signature contains SQL, so that another store can be added beside this one. Each file contains the SQL for
//! one kind of data, such as workspaces, tokens or events.
//!
//! A change checks its own guard (allowed statuses, incarnation, age) inside its transaction and returns whether it
//! applied. If the guard does not hold, another change came first; this is a result, not an error. [`StoreError`]
//! always means that the store could not answer.

mod activity;
mod admins;
mod agents;
mod card_digest;
mod connection;
mod delegations;
mod disk;
mod error;
mod events;
mod file_names;
mod held_plans;
mod history;
mod lane;
mod lifecycle;
mod log;
mod members;
mod memories;
mod migrate;
mod mirror;
mod operations;
mod private;
#[cfg(test)]
mod query_plans;
mod registry;
mod reports;
mod roster;
mod row;
mod spec_columns;
mod sweeps;
mod tokens;
mod trash;
mod workspace_columns;
mod workspaces;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rusqlite::Connection;
use tokio::sync::broadcast;

use crate::domain::event::{Event, TransientEvent};
use connection::{configure, open_reader};
use lane::{FEED_CAPACITY, Lanes, Writer};
use log::OpenFile;
use private::{private_directory, private_file};
use roster::SharedRoster;

pub use activity::{Activity, ActivityPage, NewActivity, Queued, Summary};
pub use admins::AdminToken;
pub use agents::{Described, Vitals};
pub use delegations::{Attempt, Delegated, Delegation, Dispatched, NewDelegation, Waiting};
pub use disk::Disk;
pub(crate) use error::advice_for;
pub use error::{OpenError, StoreError, StoreResult};
pub use file_names::FILE_NAME;
pub use held_plans::{Approval, HeldPlanRow, NewHeldPlan};
pub use lifecycle::{
    ClaimedRestart, ContainerEnd, GoneResult, HibernateReason, HibernateResult, PauseResult, Precondition,
};
pub use memories::{Memory, MemoryQuery, Remembered};
pub use mirror::{DirectoryMark, MIRROR_FILE_NAME, Mirror, MirrorRecord};
pub use operations::{CancelResult, NewOperation, Parked, Stored};
pub use registry::{HostReach, Registry};
pub use reports::{Registration, ReportResult};
pub use roster::{LastReport, Member, Pause, TokenOwner, TokenSubject, manages_status};
pub use tokens::{HeldToken, InvalidToken, NewApiToken, StaleTokens, TokenIssue};
pub use trash::{ClaimGuard, DeleteGuard, NewClaim};
pub use workspaces::{
    AdoptedContainer, AdoptedWorkspace, BeginStart, Begun, ContainerAdoption, CreateResult, Found,
    NewWorkspace, PatchResult, PortRange, RemoveResult, Scope, StatusChange, UndeleteResult, UndeleteSkip,
    UndeletedAlong, UndeletedUnder, WorkspaceEdit, WorkspacePatch,
};

/// Number of reading threads: two, so that a long listing does not delay a short query.
const READERS: usize = 2;

/// Handle to the registry's database. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    lanes: Arc<Lanes>,
    feed: broadcast::Sender<Event>,
    transient: broadcast::Sender<TransientEvent>,
    roster: SharedRoster,
}

impl Store {
    /// Opens the database in `data_dir`; creates a missing directory (0700) or file (0600).
    ///
    /// # Errors
    /// The text of [`OpenError`] says what to do. An existing file is never replaced.
    pub fn open(data_dir: &Path) -> Result<Self, OpenError> {
        let path = data_dir.join(FILE_NAME);
        private_directory(data_dir)?;
        migrate::inspect(&path)?;
        private_file(&path)?;
        let sql = Connection::open(&path).map_err(StoreError::from)?;
        configure(&sql, &path)?;
        migrate::prepare(&sql, Some(&path))?;
        let file = OpenFile::begin(&sql, &path)?;
        let readers = (0..READERS).map(|_| open_reader(&path)).collect::<Result<_, _>>()?;
        let mirror = Arc::new(Mirror::Directory(data_dir.to_owned()));
        let writer = writer(sql).with_mirror(mirror).with_file(file);
        writer.load_roster()?;
        Self::of(writer, readers, path)
    }

    fn of(writer: Writer, readers: Vec<Connection>, path: PathBuf) -> Result<Self, OpenError> {
        let (feed, transient, roster) = writer.surroundings();
        let lanes = Lanes::threads(writer, readers).map_err(|source| OpenError::Location { path, source })?;
        Ok(Self { lanes: Arc::new(lanes), feed, transient, roster })
    }

    /// Opens an existing database for reading only; another process may be writing to it.
    ///
    /// # Errors
    /// If no database exists, it cannot be read, or [`Store::open`] would refuse it.
    pub fn open_read_only(data_dir: &Path) -> Result<Self, OpenError> {
        let path = data_dir.join(FILE_NAME);
        migrate::inspect(&path)?;
        let readers = (0..=READERS).map(|_| open_reader(&path)).collect::<Result<Vec<_>, _>>()?;
        let mut readers = readers.into_iter();
        let Some(first) = readers.next() else { return Err(StoreError::closed().into()) };
        // This store checks no tokens, so the in-memory state (the roster) is not loaded.
        Self::of(writer(first), readers.collect(), path)
    }

    /// Ends the store's threads; later calls fail. Moves the write-ahead log into the database file, so that the
    /// database can be copied as one file.
    pub async fn close(&self) {
        self.lanes.close().await;
    }

    /// Checks that the database is still the file at its path. Every write checks this first.
    ///
    /// # Errors
    /// [`StoreError`] says that the file was deleted or replaced, and what to do.
    pub async fn check_location(&self) -> StoreResult<()> {
        self.lanes.check_location().await
    }

    /// Subscribes to stored events from now on, in order, each sent after its commit.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.feed.subscribe()
    }

    /// Waits until the writing thread and one reading thread have each run a job. Does not return while the writing
    /// thread or all reading threads are stuck.
    ///
    /// Writes nothing, unless the last change could not be written. In that case it raises the generation, which needs
    /// space for the database and for the mirror.
    ///
    /// # Errors
    /// When the store cannot answer, or cannot write.
    pub async fn ping(&self) -> StoreResult<()> {
        let tried = |tx: &mut lane::Tx<'_>| {
            if tx.was_refused {
                tx.raise()?;
            }
            Ok(())
        };
        self.lanes.write("ping", tried).await?;
        self.lanes.read("ping", |sql| Ok(sql.query_row("SELECT 1", [], |_| Ok(()))?)).await
    }

    /// Subscribes to transient events from now on: events that are not stored, mostly heartbeats.
    #[must_use]
    pub fn subscribe_transient(&self) -> broadcast::Receiver<TransientEvent> {
        self.transient.subscribe()
    }
}

fn writer(sql: Connection) -> Writer {
    let (feed, _) = broadcast::channel(FEED_CAPACITY);
    let (transient, _) = broadcast::channel(FEED_CAPACITY);
    Writer::new(sql, feed, transient, SharedRoster::default())
}
