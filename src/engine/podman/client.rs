//! The client of a Podman service, and what all calls share.

use std::{collections::HashMap, future::Future, sync::Mutex};

use hyper::Method;
use tokio::sync::OnceCell;

use super::{errors::Failure, host::Host, processes::Process, raw::Raw, socket::SocketAddress};
use crate::{
    domain::ids::ContainerId,
    engine::{EngineError, EngineResult, ErrorKind},
    runtime::clock::SystemClock,
};

/// Maximum response size, in bytes, of a call whose response body is not used.
pub(super) const ACKNOWLEDGEMENT_MAX_BYTES: usize = 1 << 20;

/// Maximum number of attempts at a listing. A concurrent deletion makes a listing fail: in a measurement, one listing
/// in a thousand failed while a process created and deleted volumes without a pause.
const LISTING_TRIES: usize = 4;

/// Client of one Podman service.
pub struct Podman {
    pub(super) address: SocketAddress,
    pub(super) api: podman_api::Podman,
    pub(super) raw: Raw,
    pub(super) clock: SystemClock,
    /// Queried once: the host of a service does not change.
    pub(super) host: OnceCell<Host>,
    /// Whether ostler can see the processes that the service reports. Also determined once.
    pub(super) can_see_processes: OnceCell<bool>,
    /// First processes of containers, cached by container id.
    pub(super) processes: Mutex<HashMap<ContainerId, Process>>,
}

impl Podman {
    /// Creates a client for the service at this address. Does no IO;
    /// [`Engine::describe`](crate::engine::Engine::describe) shows whether the service answers.
    #[must_use]
    pub fn connect(address: &SocketAddress) -> Self {
        Self {
            address: address.clone(),
            // Uses podman-api's default version prefix: under the prefix of Podman 5, podman-api cannot parse an
            // inspection.
            api: podman_api::Podman::unix(address.path()),
            raw: Raw::new(address.path()),
            clock: SystemClock::start(),
            host: OnceCell::new(),
            can_see_processes: OnceCell::new(),
            processes: Mutex::default(),
        }
    }

    /// Converts a failure into the error of this call.
    pub(super) fn failed<F: Into<Failure>>(&self, call: impl Into<String>) -> impl FnOnce(F) -> EngineError {
        move |failure| {
            let mut error = failure.into().of(call);
            if error.kind == ErrorKind::Unreachable {
                error.message = format!(
                    "Podman does not answer at {} ({}). Check that its service is running",
                    self.address, error.message
                );
            }
            error
        }
    }

    /// Takes a listing, and repeats it if a volume or container deleted meanwhile made it fail. Podman then fails the
    /// whole listing, even if the deleted object does not match the filter.
    ///
    /// "Not found" is never returned as [`ErrorKind::Absent`], because it concerns the deleted object.
    pub(super) async fn listing<T, F: Future<Output = podman_api::Result<T>>>(
        &self,
        call: &str,
        ask: impl Fn() -> F,
    ) -> EngineResult<T> {
        let mut tries = 1;
        loop {
            match ask().await.map_err(Failure::from) {
                Ok(listing) => return Ok(listing),
                Err(failure) if failure.is_not_found() && tries < LISTING_TRIES => tries += 1,
                Err(failure) => return Err(self.failed(call)(failure.undecided())),
            }
        }
    }

    /// Sends a request and discards the response body.
    pub(super) async fn order(&self, method: Method, target: &str) -> Result<(), Failure> {
        self.raw.send(method, target, None, ACKNOWLEDGEMENT_MAX_BYTES).await.map(drop)
    }
}

/// Runs blocking file work on a blocking thread.
pub(super) async fn off_thread<T: Send + 'static>(
    call: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> EngineResult<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| EngineError::new(ErrorKind::Other, call, error.to_string()))
}
