//! The local socket. A caller that can open this socket is treated as an admin.
//!
//! The socket's mode (0600, in a directory of mode 0700) keeps other users out. The peer's uid is checked as well,
//! because a mode can be changed by accident and does not apply to an inherited descriptor.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    extract::{ConnectInfo, Request, connect_info::Connected},
    http::StatusCode,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    serve::IncomingStream,
};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use crate::{
    http::{Api, auth::OwnSocket, error::HttpError, router::router},
    runtime::clock::SharedClock,
};

#[derive(Clone, Copy, Debug)]
struct Peer {
    uid: Option<u32>,
}

impl Connected<IncomingStream<'_, LocalListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, LocalListener>) -> Self {
        Self { uid: stream.io().peer_cred().ok().map(|peer| peer.uid()) }
    }
}

async fn only_admin(ConnectInfo(peer): ConnectInfo<Peer>, mut request: Request, next: Next) -> Response {
    let own = rustix::process::geteuid().as_raw();
    if peer.uid.is_some_and(|uid| uid == own || uid == 0) {
        request.extensions_mut().insert(OwnSocket);
        return next.run(request).await;
    }
    HttpError::new(StatusCode::FORBIDDEN, "only the daemon's user and root may use this socket")
        .into_response()
}

/// Binds the socket. An existing socket file is removed first: it must be from an earlier daemon, because this process
/// holds the lock on the data directory.
///
/// # Errors
/// If it cannot be bound.
fn bind(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, PermissionsExt::from_mode(0o600))?;
    Ok(listener)
}

/// Interval between two checks of the socket's path. If the socket file is removed, clients cannot reach the daemon for
/// at most this time.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// The listening socket, which is bound again if its path was removed.
///
/// Without this, no client could reach the daemon after a removal; another daemon could not replace it, because the
/// data directory is locked. If another file exists at the path, the socket is not bound again: two daemons that are
/// configured with the same path would otherwise replace each other's socket repeatedly.
struct LocalListener {
    path: PathBuf,
    listener: UnixListener,
    clock: SharedClock,
}

impl LocalListener {
    fn bind_if_removed(&mut self) {
        if !matches!(fs::symlink_metadata(&self.path), Err(error) if error.kind() == io::ErrorKind::NotFound)
        {
            return;
        }
        match bind(&self.path) {
            Ok(listener) => {
                tracing::warn!(socket = %self.path.display(), "socket was removed; bound again");
                self.listener = listener;
            }
            Err(error) => {
                tracing::warn!(
                    socket = %self.path.display(), %error,
                    "socket was removed and could not be bound again"
                );
            }
        }
    }
}

impl axum::serve::Listener for LocalListener {
    type Io = UnixStream;
    type Addr = tokio::net::unix::SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            tokio::select! {
                accepted = axum::serve::Listener::accept(&mut self.listener) => return accepted,
                () = self.clock.sleep(CHECK_INTERVAL) => self.bind_if_removed(),
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// Serves every route on a Unix socket until `stop`, to the daemon's own user and root, as admins.
///
/// # Errors
/// If the socket cannot be bound.
pub async fn serve_local(
    path: &Path,
    api: Api,
    stop: CancellationToken,
    on_ready: impl FnOnce(),
) -> io::Result<()> {
    let clock = Arc::clone(&api.0.clock);
    let listener = LocalListener { path: path.to_owned(), listener: bind(path)?, clock };
    let app: Router = router(api).layer(middleware::from_fn(only_admin));
    on_ready();
    axum::serve(listener, app.into_make_service_with_connect_info::<Peer>())
        .with_graceful_shutdown(async move { stop.cancelled().await })
        .await
}
