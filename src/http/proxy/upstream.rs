//! A connection to an agent.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    task::Context,
};

use axum::{
    body::Bytes,
    http::{Request, Response},
};
use http_body_util::Full;
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{io::DuplexStream, net::TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use super::error::{ForwardError, broken};

pub(super) type Plain = Either<TcpStream, DuplexStream>;
pub(super) type Stream = Either<Plain, Box<TlsStream<Plain>>>;
pub(super) type Message = Full<Bytes>;

/// A connection to an agent.
pub(super) struct Upstream {
    pub(super) sender: http1::SendRequest<Message>,
    /// `None` once the connection has ended.
    pub(super) connection: Option<http1::Connection<TokioIo<Stream>, Message>>,
}

/// A message that got no response.
pub(super) struct Failed {
    pub(super) why: hyper::Error,
    /// The message, if no byte of it was written.
    pub(super) unsent: Option<Request<Message>>,
}

impl From<Failed> for ForwardError {
    fn from(failed: Failed) -> Self {
        broken(failed.why)
    }
}

impl Upstream {
    /// Lets the connection read and write. A connection that has ended is dropped, so that futures waiting on it
    /// resolve with an error.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(connection) = &mut self.connection
            && Pin::new(connection).poll(cx).is_ready()
        {
            self.connection = None;
        }
    }

    /// Whether another message can be sent on this connection.
    pub(super) fn is_free(&self) -> bool {
        self.connection.is_some() && self.sender.is_ready()
    }

    pub(super) async fn send(
        mut self,
        message: Request<Message>,
    ) -> Result<(Response<Incoming>, Self), Failed> {
        let mut answer = pin!(self.sender.try_send_request(message));
        let answer = poll_fn(|cx| {
            self.drive(cx);
            answer.as_mut().poll(cx)
        })
        .await;
        match answer {
            Ok(response) => Ok((response, self)),
            Err(mut error) => {
                let unsent = error.take_message();
                Err(Failed { why: error.into_error(), unsent })
            }
        }
    }
}
