//! HTTP/1 over a unix socket, with one connection for each request.
//!
//! There is no pool whose stale connection could fail a request before it is sent; on a unix socket a connection costs
//! microseconds. A connection is polled by the call or body that uses it, not by a task of its own, so that dropping
//! the call or the body closes it. There are no timeouts here; the caller's deadline drops the call.

use std::{
    future::Future,
    io,
    path::Path,
    pin::{Pin, pin},
    task::{Context, Poll},
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Fuse},
};
use http_body_util::Full;
use hyper::{
    Request, Response,
    body::{Body as HttpBody, Bytes, Frame, Incoming, SizeHint},
    client::conn::http1,
    upgrade::Upgraded,
};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

/// A connection that has sent nothing yet.
pub(crate) struct Connection(UnixStream);

/// A connection that is in use. Fused, because it may end, and is then polled again, while received data is still being
/// read.
type Driver = Fuse<BoxFuture<'static, ()>>;

impl Connection {
    /// Connects to a socket.
    pub(crate) async fn open(socket: &Path) -> io::Result<Self> {
        UnixStream::connect(socket).await.map(Self)
    }

    /// Sends a request. Returns the response once its head has arrived.
    pub(crate) async fn send(self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Body>> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(self.0)).await?;
        // An error of the connection is also reported by the request.
        let mut connection = async { drop(connection.with_upgrades().await) }.boxed().fuse();
        let response = driven(&mut connection, sender.send_request(request)).await?;
        Ok(response.map(|received| Body { received, connection }))
    }
}

/// The body of a response, read as it arrives.
pub(crate) struct Body {
    received: Incoming,
    connection: Driver,
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let Self { received, connection } = self.get_mut();
        let frame = Pin::new(&mut *received).poll_frame(context);
        if frame.is_pending() && connection.poll_unpin(context).is_ready() {
            // The connection has ended: the rest of the body, or the error, is already there.
            return Pin::new(received).poll_frame(context);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.received.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.received.size_hint()
    }
}

/// Takes over the connection of a response with status 101 as a bidirectional byte stream.
pub(crate) async fn upgraded(mut response: Response<Body>) -> hyper::Result<TokioIo<Upgraded>> {
    let upgrade = hyper::upgrade::on(&mut response);
    driven(&mut response.body_mut().connection, upgrade).await.map(TokioIo::new)
}

/// Runs a request and polls its connection meanwhile. If the connection ends first, the request continues and reports
/// the result.
async fn driven<T>(connection: impl Future, exchange: impl Future<Output = T>) -> T {
    let mut exchange = pin!(exchange);
    tokio::select! {
        biased;
        done = &mut exchange => done,
        _ = connection => exchange.await,
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::UnixListener,
    };

    use super::*;

    /// Sends a request to a server that answers with these bytes. Returns the response and the server's end.
    async fn exchange(answer: &str) -> (Response<Body>, UnixStream) {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("http.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let connection = Connection::open(&socket).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        let request = Request::get("/").header("host", "d").header("connection", "upgrade");
        let request = request.header("upgrade", "tcp").body(Full::default()).unwrap();
        let serve = async {
            let mut head = [0; 4096];
            assert!(server.read(&mut head).await.unwrap() > 0);
            server.write_all(answer.as_bytes()).await.unwrap();
        };
        let (response, ()) = tokio::join!(connection.send(request), serve);
        (response.unwrap(), server)
    }

    #[tokio::test]
    async fn body_is_complete_after_the_server_has_closed_the_connection() {
        let (response, mut server) = exchange("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nfirst").await;
        server.write_all(b", rest").await.unwrap();
        drop(server);
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "first, rest");
    }

    #[tokio::test]
    async fn interrupted_body_ends_with_an_error() {
        let (response, server) = exchange("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nfirst").await;
        drop(server);
        assert!(response.into_body().collect().await.is_err());
    }

    #[tokio::test]
    async fn dropping_a_body_closes_its_connection() {
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        let (response, mut server) = exchange(&format!("{head}5\r\nfirst\r\n")).await;
        let mut body = response.into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "first");
        drop(body);
        assert_eq!(server.read(&mut [0; 16]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn upgraded_connection_carries_bytes_in_both_directions() {
        let head = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: tcp\r\n\r\n";
        let (response, mut server) = exchange(&format!("{head}early")).await;
        let mut stream = upgraded(response).await.unwrap();
        let mut bytes = [0; 5];
        stream.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"early");
        stream.write_all(b"reply").await.unwrap();
        stream.flush().await.unwrap();
        server.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"reply");
    }
}
