//! Operations: the durable queue of what operators have ordered, and one worker for each workspace.
//!
//! An operation is stored before anything is done, in the transaction that changes the rows if its order changes rows.
//! The worker of its workspace carries it out: one operation at a time, in the order in which they were accepted. The
//! table is the queue. The transaction that ends an operation returns the next one, so a worker exists only while its
//! workspace has an operation that runs.
//!
//! * **Podman gives no answer:** the operation waits, and its caller gets that answer. It continues when a listing proves
//!   that Podman answers again.
//! * **The process ends:** the next daemon continues the open operations. Each can be carried out twice without harm: a
//!   stop finds the container stopped, and a start that has begun is known by the incarnation that its transaction
//!   stored in the operation.
//! * **A later stop:** it cancels starts that have not begun. A start that runs is abandoned by its transaction, which
//!   compares the revision on which it was decided.

mod accept;
mod cancel;
mod perform;
mod resume;
mod ticket;
mod tracker;
mod worker;

use super::{OpResult, Ops};
use crate::domain::{ids::WorkspaceId, operation::Requester};

pub use ticket::{Request, Ticket};
pub(super) use tracker::Operations;

impl Ops {
    /// Accepts an order for a workspace. When this returns, the operation is stored, and its place among the operations
    /// of the workspace is fixed.
    ///
    /// # Errors
    /// If the order is refused. Nothing was changed then.
    pub async fn operate(&self, id: WorkspaceId, request: Request, by: Requester) -> OpResult<Ticket> {
        match request {
            Request::Up(up) => self.accept_up(id, up, by).await,
            Request::Stop => self.accept_stop(id, by).await,
            Request::Hibernate { force } => self.accept_hibernation(id, force, by).await,
            Request::Wake => self.accept_wake(id, by).await,
            Request::Undelete { name, only } => self.accept_undelete(id, name, only, by).await,
        }
    }
}
