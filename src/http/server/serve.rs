//! Serves a router on a TCP listener: accepts connections and starts a task for each.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::Router;
use hyper::server::conn::http1;
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    accept::{Accept, ThisHost},
    activity::Activity,
    connection::Connection,
    limits::ConnectionLimits,
    log_limit::Refusals,
    slots::{Slots, counted_as},
};
use crate::{
    http::{Api, is_own_address, router::router, server::rest_of_body::Discards},
    runtime::{clock::SharedClock, tasks::SharedSpawn},
};

/// Largest request head, in bytes. Far more than tokens and ids need.
pub(super) const HEAD: usize = 16 * 1024;

/// Buffer size of one connection in each direction, in bytes.
///
/// Larger than `HEAD`, because a body arrives in pieces of up to this size.
const BUFFER: usize = 64 * 1024;

/// First and longest pause after an accept error that would occur again on an immediate retry. The pause doubles after
/// each such error.
const REST: Duration = Duration::from_millis(50);
const LONGEST_REST: Duration = Duration::from_secs(1);

/// Serves every route on a TCP listener until `stop`, to connections from this host only. See `serve_this_host`.
pub async fn serve_agents_of_this_host(
    listener: TcpListener,
    api: Api,
    clock: SharedClock,
    spawn: SharedSpawn,
    stop: CancellationToken,
) {
    serve_this_host(listener, router(api), ConnectionLimits::default(), clock, spawn, stop).await;
}

/// Serves every route on a TCP listener until `stop`.
pub async fn serve_agents(
    listener: TcpListener,
    api: Api,
    clock: SharedClock,
    spawn: SharedSpawn,
    stop: CancellationToken,
) {
    serve(listener, router(api), ConnectionLimits::default(), clock, spawn, stop).await;
}

/// Serves `router` until `stop`.
///
/// After `stop`, connections without a request are closed, and requests in flight may finish within
/// `ConnectionLimits::drain`. Handlers get the peer as `ConnectInfo<SocketAddr>`.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    limits: ConnectionLimits,
    clock: SharedClock,
    spawn: SharedSpawn,
    stop: CancellationToken,
) {
    serve_from(listener, router, limits, clock, spawn, stop).await;
}

/// Like `serve`, but closes connections from other machines before anything is read.
///
/// With rootless Podman, containers reach ostler at this host's own address, which other machines can reach too.
/// Podman's user-space network (slirp4netns, pasta) connects from a process on this host. For a connection to one of
/// the host's own addresses, the kernel uses that same address as the source. The kernel drops packets from outside
/// that carry one of the host's addresses as source, so the source cannot be forged.
async fn serve_this_host(
    listener: TcpListener,
    router: Router,
    limits: ConnectionLimits,
    clock: SharedClock,
    spawn: SharedSpawn,
    stop: CancellationToken,
) {
    let is_own = is_own_address;
    let local = ThisHost { listener, is_own, clock: Arc::clone(&clock), refusals: Mutex::default() };
    serve_from(local, router, limits, clock, spawn, stop).await;
}

async fn serve_from(
    listener: impl Accept,
    router: Router,
    limits: ConnectionLimits,
    clock: SharedClock,
    spawn: SharedSpawn,
    stop: CancellationToken,
) {
    let mut http = http1::Builder::new();
    // hyper's limit of 100 headers stays in force: hyper keeps that many on the stack. hyper's own time limit for a
    // head is disabled: it would arm a timer for each request, whereas `Activity` needs one for each connection.
    http.max_header_size(HEAD).max_buf_size(BUFFER).header_read_timeout(None);
    let slots = Slots::new(limits);
    // The router's state is bound here once, because a router whose state is bound does less work per request.
    let router: Router = router.with_state(());
    let discards = Discards::new();
    let open = TaskTracker::new();
    let mut rest = REST;
    let mut refusals = Refusals::default();
    loop {
        let next = async {
            slots.settled().await;
            listener.accept().await
        };
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = next => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                rest = REST;
                let activity = Arc::new(Activity::new(Arc::clone(&clock), counted_as(peer.ip())));
                let (slot, evicted) = Slots::take(&slots, &activity);
                if evicted && let Some(evicted) = refusals.count(&*clock) {
                    let peer = peer.ip();
                    tracing::warn!(
                        %peer, evicted,
                        "too many connections; evicting those without a token first, then those of the workspace \
                         with the most connections"
                    );
                }
                let connection = Connection {
                    activity,
                    slots: Arc::clone(&slots),
                    http: http.clone(),
                    router: router.clone(),
                    discards: discards.clone(),
                    limits,
                    clock: Arc::clone(&clock),
                    // Each connection gets its own child token, because a check for cancellation locks the token.
                    stop: stop.child_token(),
                };
                let work = async move {
                    connection.run(stream, peer).await;
                    drop(slot);
                };
                spawn.spawn(Box::pin(open.track_future(work)));
            }
            Err(error) if was_about_one_connection(&error) => {}
            Err(error) => {
                // For example, no file descriptors are free. An immediate retry would then fail again.
                tracing::warn!(%error, "cannot accept connections; retrying in {} ms", rest.as_millis());
                stop.run_until_cancelled(clock.sleep(rest)).await;
                rest = (rest * 2).min(LONGEST_REST);
            }
        }
    }
    // The listener is closed before the requests are drained: a new connection would wait for a response that never
    // comes.
    drop(listener);
    open.close();
    open.wait().await;
}

/// Whether an accept error only means that the peer closed its connection before it was accepted.
fn was_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

#[cfg(test)]
mod tests {
    use crate::runtime::manual_clock::ManualClock;
    use std::{collections::VecDeque, net::SocketAddr};

    use tokio::net::TcpStream;

    use super::*;
    use crate::{http::server::tests::LIMITS, runtime::tasks::TokioTasks};

    /// Returns its errors one by one, then never resolves.
    struct Failing(Mutex<VecDeque<io::Error>>);

    impl Accept for Failing {
        async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
            let error = self.0.lock().unwrap().pop_front();
            match error {
                Some(error) => Err(error),
                None => std::future::pending().await,
            }
        }
    }

    #[tokio::test]
    #[expect(clippy::disallowed_methods, reason = "task of a test")]
    async fn accept_pauses_if_descriptors_run_out_but_not_if_peer_aborts() {
        let no_descriptors = || io::Error::from_raw_os_error(rustix::io::Errno::MFILE.raw_os_error());
        let mut errors: VecDeque<_> = (0..7).map(|_| no_descriptors()).collect();
        errors.push_front(io::ErrorKind::ConnectionAborted.into());
        let (clock, stop) = (Arc::new(ManualClock::default()), CancellationToken::new());
        let tasks = Arc::new(TokioTasks::default());
        let failing = Failing(Mutex::new(errors));
        let served =
            tokio::spawn(serve_from(failing, Router::new(), LIMITS, clock.clone(), tasks, stop.clone()));
        for count in 1..=7 {
            clock.until_asked(count).await;
            clock.advance(LONGEST_REST);
        }
        let rests: Vec<_> = clock.asked().iter().map(Duration::as_millis).collect();
        assert_eq!(rests, [50, 100, 200, 400, 800, 1000, 1000]);
        stop.cancel();
        served.await.unwrap();
    }
}
