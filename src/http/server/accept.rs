//! Sources of connections: a listener, and a listener that accepts connections from this host only.

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Mutex, PoisonError},
};

use tokio::net::{TcpListener, TcpStream};

use super::log_limit::Refusals;
use crate::runtime::clock::SharedClock;

/// A source of connections. Tests replace it by a source that fails.
pub(super) trait Accept: Send {
    fn accept(&self) -> impl Future<Output = io::Result<(TcpStream, SocketAddr)>> + Send;
}

impl Accept for TcpListener {
    fn accept(&self) -> impl Future<Output = io::Result<(TcpStream, SocketAddr)>> + Send {
        Self::accept(self)
    }
}

/// Accepts connections from this host only.
pub(super) struct ThisHost<A> {
    pub(super) listener: A,
    pub(super) is_own: fn(IpAddr) -> bool,
    pub(super) clock: SharedClock,
    pub(super) refusals: Mutex<Refusals>,
}

impl<A: Accept + Sync> Accept for ThisHost<A> {
    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        loop {
            let (stream, peer) = self.listener.accept().await?;
            let source = peer.ip();
            // A local process may bind another of this host's addresses as its source. The second check allows this; it
            // reads the kernel's tables.
            if stream.local_addr().is_ok_and(|local| local.ip() == source) || (self.is_own)(source) {
                return Ok((stream, peer));
            }
            drop(stream);
            let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(refused) = refusals.count(&*self.clock) {
                tracing::warn!(
                    peer = %source, refused,
                    "connections from other machines closed: this address serves only workspaces on this host; set \
                     `network.listen` to serve other machines"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::runtime::manual_clock::ManualClock;
    use std::{collections::VecDeque, sync::Arc};

    use tokio::io::AsyncReadExt as _;

    use super::*;
    use crate::http::{is_own_address, server::bind::bind};

    /// Reports these addresses as the sources of accepted connections, in order.
    struct From(TcpListener, Mutex<VecDeque<IpAddr>>);

    impl Accept for From {
        async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
            let (stream, peer) = self.0.accept().await?;
            let source =
                self.1.lock().unwrap().pop_front().expect("a source address is left for each connection");
            Ok((stream, SocketAddr::new(source, peer.port())))
        }
    }

    #[tokio::test]
    async fn connection_from_another_machine_is_closed_on_host_address() {
        let listener = bind("127.0.0.1:0".parse().unwrap(), false).unwrap();
        let address = listener.local_addr().unwrap();
        let sources = ["192.0.2.9", "172.17.0.2", "127.0.0.1", "192.0.2.7"];
        let sources = sources.map(|source| source.parse().unwrap());
        let local = ThisHost {
            listener: From(listener, Mutex::new(sources.into())),
            // A process of this host may connect from another of the host's addresses.
            is_own: |source| source.to_string() == "192.0.2.7",
            clock: Arc::new(ManualClock::default()),
            refusals: Mutex::default(),
        };
        let mut peers = Vec::new();
        for _ in sources {
            peers.push(TcpStream::connect(address).await.unwrap());
        }
        let mut served = Vec::new();
        for _ in 0..2 {
            served.push(local.accept().await.unwrap());
        }
        let by: Vec<_> = served.iter().map(|(_, peer)| peer.ip()).collect();
        assert_eq!(by, sources[2..], "only connections from this host are served");
        for peer in &mut peers[..2] {
            let mut read = Vec::new();
            let _reset_is_an_end_too = peer.read_to_end(&mut read).await;
            assert!(read.is_empty(), "another machine got a response");
        }
        assert!(is_own_address("127.0.0.1".parse().unwrap()));
        assert!(!is_own_address("198.51.100.9".parse().unwrap()));
    }
}
