//! Requests and bytes in flight of each workspace, with their limits.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::http::StatusCode;

use super::{
    limits::{BYTES, BYTES_IN_ALL, MESSAGES, MESSAGES_IN_ALL, OTHERS, RETRY_AFTER},
    refusal::Refusal,
};
use crate::{domain::ids::WorkspaceId, http::error::HttpError};

/// Requests that are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Messages to other agents; one may be in flight for half an hour.
    Message,
    /// All other requests of a workspace, except heartbeats and registrations.
    Other,
}

impl From<Refusal> for HttpError {
    fn from(refusal: Refusal) -> Self {
        let status = match refusal {
            Refusal::Requests(_) | Refusal::Bytes => StatusCode::TOO_MANY_REQUESTS,
            Refusal::RequestsInAll | Refusal::BytesInAll => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, refusal.to_string()).with("retry_after", RETRY_AFTER).retry_after(RETRY_AFTER)
    }
}

/// The owner that a request is counted under: a workspace, or `None` for admins.
pub(super) type Owner = Option<WorkspaceId>;

/// Requests and bytes in flight.
#[derive(Clone, Default)]
pub(in crate::http) struct Admission(Arc<Mutex<Load>>);

#[derive(Default)]
pub(super) struct Load {
    by_owner: HashMap<Owner, Share>,
    messages: usize,
    pub(super) bytes: usize,
}

#[derive(Default)]
struct Share {
    messages: usize,
    others: usize,
    bytes: usize,
}

impl Admission {
    pub(super) fn lock(&self) -> MutexGuard<'_, Load> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Admits a request until its response is dropped. The number of admin requests in flight has no limit of its own:
    /// messages of admins count only towards `MESSAGES_IN_ALL`.
    pub(super) fn enter(&self, owner: Owner, class: Class) -> Result<Entry, Refusal> {
        let mut load = self.lock();
        if class == Class::Message && load.messages >= MESSAGES_IN_ALL {
            return Err(Refusal::RequestsInAll);
        }
        let share = load.by_owner.entry(owner).or_default();
        let (count, most) = match class {
            Class::Message => (&mut share.messages, MESSAGES),
            Class::Other => (&mut share.others, OTHERS),
        };
        if owner.is_some() && *count >= most {
            return Err(Refusal::Requests(most));
        }
        *count += 1;
        if class == Class::Message {
            load.messages += 1;
        }
        Ok(Entry { admission: self.clone(), owner, class })
    }

    pub(super) fn reserve(&self, owner: Owner, bytes: usize) -> Result<Reserved, Refusal> {
        let mut reserved = Reserved { admission: self.clone(), owner, bytes: 0 };
        reserved.grow_to(bytes)?;
        Ok(reserved)
    }
}

impl Load {
    fn forget_if_empty(&mut self, owner: Owner) {
        if self.by_owner.get(&owner).is_some_and(|share| share.messages + share.others + share.bytes == 0) {
            self.by_owner.remove(&owner);
        }
    }
}

/// Guard of a request. The request counts as in flight until this guard is dropped.
pub(super) struct Entry {
    admission: Admission,
    owner: Owner,
    class: Class,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut load = self.admission.lock();
        if let Some(share) = load.by_owner.get_mut(&self.owner) {
            match self.class {
                Class::Message => share.messages -= 1,
                Class::Other => share.others -= 1,
            }
        }
        if self.class == Class::Message {
            load.messages -= 1;
        }
        load.forget_if_empty(self.owner);
    }
}

/// Bytes that are in memory, or are about to be.
pub(super) struct Reserved {
    pub(super) admission: Admission,
    pub(super) owner: Owner,
    pub(super) bytes: usize,
}

impl Reserved {
    pub(super) fn grow_to(&mut self, bytes: usize) -> Result<(), Refusal> {
        let Some(more) = bytes.checked_sub(self.bytes).filter(|more| *more > 0) else { return Ok(()) };
        let mut load = self.admission.lock();
        if load.bytes + more > BYTES_IN_ALL {
            return Err(Refusal::BytesInAll);
        }
        let share = load.by_owner.entry(self.owner).or_default();
        // Admin requests have this limit too, because otherwise they could use up the bytes of all workspaces.
        if share.bytes + more > BYTES {
            return Err(Refusal::Bytes);
        }
        share.bytes += more;
        load.bytes += more;
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if self.bytes == 0 {
            return;
        }
        let mut load = self.admission.lock();
        load.bytes -= self.bytes;
        if let Some(share) = load.by_owner.get_mut(&self.owner) {
            share.bytes -= self.bytes;
        }
        load.forget_if_empty(self.owner);
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const fn workspace(number: u128) -> WorkspaceId {
        WorkspaceId(Uuid::from_u128(number))
    }

    const ONE: Owner = Some(workspace(1));
    const OTHER: Owner = Some(workspace(2));

    #[test]
    fn requests_are_capped_per_workspace() {
        let admission = Admission::default();
        let held: Vec<_> = (0..MESSAGES).map(|_| admission.enter(ONE, Class::Message).unwrap()).collect();
        assert_eq!(admission.enter(ONE, Class::Message).err(), Some(Refusal::Requests(MESSAGES)));
        assert!(admission.enter(ONE, Class::Other).is_ok(), "messages do not count against other requests");
        assert!(admission.enter(OTHER, Class::Message).is_ok());
        drop(held);
        assert!(admission.lock().by_owner.is_empty(), "finished requests leave no entry");
        assert_eq!(admission.lock().messages, 0);
    }

    #[test]
    fn bytes_are_capped_per_workspace_and_in_total() {
        let admission = Admission::default();
        let own = admission.reserve(ONE, BYTES).unwrap();
        assert_eq!(admission.reserve(ONE, 1).err(), Some(Refusal::Bytes));
        let rest: Vec<_> =
            (3..).map_while(|number| admission.reserve(Some(workspace(number)), BYTES / 2).ok()).collect();
        assert_eq!(rest.len(), (BYTES_IN_ALL - BYTES) / (BYTES / 2));
        assert_eq!(admission.reserve(OTHER, BYTES / 2).err(), Some(Refusal::BytesInAll));
        drop((own, rest));
        assert!(admission.lock().by_owner.is_empty());
        assert_eq!(admission.lock().bytes, 0);
    }
}
