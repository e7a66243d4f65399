//! How connections to agents are opened.

use std::{io, net::SocketAddr, sync::Arc};

use tokio::{io::DuplexStream, net::TcpStream};
use tokio_util::either::Either;

use super::upstream::Plain;

/// How connections to agents are opened.
#[derive(Clone)]
pub enum Dial {
    /// Over TCP.
    Tcp,
    /// Through an in-process pipe, for the simulator, whose simulated agent answers at the other end.
    Pipe(PipeTo),
}

/// Opens a pipe to the simulated listener at an address.
pub type PipeTo = Arc<dyn Fn(SocketAddr) -> io::Result<DuplexStream> + Send + Sync>;

impl Dial {
    pub(super) async fn connect(&self, address: SocketAddr) -> io::Result<Plain> {
        match self {
            Self::Tcp => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Ok(Either::Left(stream))
            }
            Self::Pipe(pipe_to) => pipe_to(address).map(Either::Right),
        }
    }
}
