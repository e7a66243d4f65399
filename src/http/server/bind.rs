//! Opens a listening TCP socket.

use std::{io, net::SocketAddr, time::Duration};

use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpSocket};

/// Length of the kernel's queue of connections that are not accepted yet.
const BACKLOG: u32 = 1024;

/// TCP keep-alive: after a minute without traffic, four probes, 15 s apart, detect a peer that vanished.
///
/// Data that stays unacknowledged for `UNACKNOWLEDGED_MS` (two minutes, `TCP_USER_TIMEOUT`) also ends the connection,
/// so that a client that stops reading cannot hold its response for ever.
const PROBE_AFTER: Duration = Duration::from_mins(1);
const PROBE_EVERY: Duration = Duration::from_secs(15);
const PROBES: u32 = 4;
const UNACKNOWLEDGED_MS: u32 = 120_000;

/// Listens on `address`.
///
/// With `freebind` the address need not exist on an interface yet: the gateway of a bridge, for example, appears when
/// Podman starts its first container.
///
/// # Errors
/// When the address is in use, or does not belong to this machine and `freebind` is not set.
pub fn bind(address: SocketAddr, freebind: bool) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // After a restart, old connections stay in TIME_WAIT for a minute and would block the bind.
    socket.set_reuseaddr(true)?;
    if freebind {
        match address {
            SocketAddr::V4(_) => sockopt::set_ip_freebind(&socket, true)?,
            SocketAddr::V6(_) => sockopt::set_ipv6_freebind(&socket, true)?,
        }
    }
    // Linux copies these options to every accepted connection, which saves setting them on each.
    sockopt::set_tcp_nodelay(&socket, true)?;
    sockopt::set_socket_keepalive(&socket, true)?;
    sockopt::set_tcp_keepidle(&socket, PROBE_AFTER)?;
    sockopt::set_tcp_keepintvl(&socket, PROBE_EVERY)?;
    sockopt::set_tcp_keepcnt(&socket, PROBES)?;
    sockopt::set_tcp_user_timeout(&socket, UNACKNOWLEDGED_MS)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    #[test]
    fn listener_binds_an_address_that_is_not_assigned_yet() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _context = runtime.enter();
        for address in ["192.0.2.77:0", "[2001:db8::77]:0"] {
            let address: SocketAddr = address.parse().unwrap();
            match bind(address, true) {
                Ok(listener) => assert_eq!(listener.local_addr().unwrap().ip(), address.ip()),
                // On a machine without IPv6, an IPv6 address cannot be bound.
                Err(error) => assert!(address.is_ipv6(), "{address}: {error}"),
            }
            assert!(bind(address, false).is_err(), "{address} is not an address of this host");
        }
    }

    #[tokio::test]
    async fn accepted_connection_inherits_socket_options() {
        let listener = bind("127.0.0.1:0".parse().unwrap(), false).unwrap();
        let _peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        assert!(accepted.nodelay().unwrap());
        assert!(sockopt::socket_keepalive(&accepted).unwrap());
        assert_eq!(sockopt::tcp_user_timeout(&accepted).unwrap(), UNACKNOWLEDGED_MS);
    }
}
