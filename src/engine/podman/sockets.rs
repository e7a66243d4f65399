//! TCP sockets of this host and of containers, from the kernel's tables.
//!
//! Connections to a published port do not pass through ostler. The port is published on loopback, so every client is on
//! this host. The client's end of the connection is in the table of this network namespace, whether Podman runs with or
//! without root. If the container closed a connection first, only the container's own table shows it.

use std::{collections::BTreeSet, fs, path::Path, sync::PoisonError};

use hyper::Method;

use super::{
    super::{EngineResult, Sockets},
    client::{Podman, off_thread},
    convert,
    processes::Process,
    service,
};
use crate::domain::ids::ContainerId;

/// `st` of an established connection.
const ESTABLISHED: &str = "01";
/// `st` of a connection that was closed less than a minute ago.
const TIME_WAIT: &str = "06";
/// `st` of a listening socket.
const LISTEN: &str = "0A";

/// Sockets behind a container's published port; `None` if they cannot be seen here.
pub(super) async fn of_container(
    podman: &Podman,
    id: &ContainerId,
    inside: u16,
    published: u16,
) -> EngineResult<Option<Sockets>> {
    if !service::can_see_processes(podman).await {
        return Ok(None);
    }
    let Some(process) = process_of(podman, id).await? else { return Ok(None) };
    off_thread("list sockets", move || {
        let (host, container) = (tables("self")?, tables(&process.to_string())?);
        let (open, closed) = clients(&host, published, &own());
        let closed = closed || closed_inside(&container, inside);
        Some(Sockets { listens: listens(&container, inside), open, closed })
    })
    .await
}

/// Id of the first process of a running container. Cached, because a container's sockets are read every minute.
async fn process_of(podman: &Podman, id: &ContainerId) -> EngineResult<Option<i64>> {
    let known = {
        let known = podman.processes.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(id).filter(|process| process.is_alive()).map(Process::number)
    };
    if known.is_some() {
        return Ok(known);
    }
    let call = format!("inspect container {}", id.short());
    let target = format!("/libpod/containers/{id}/json");
    let found = podman.raw.json(Method::GET, &target, None).await;
    let (seen, process, _) = found.map(convert::inspected).map_err(podman.failed(call))?;
    let process = process.filter(|_| seen.state.may_run()).and_then(Process::find);
    let number = process.as_ref().map(Process::number);
    let mut known = podman.processes.lock().unwrap_or_else(PoisonError::into_inner);
    known.retain(|_, process| process.is_alive());
    known.extend(process.map(|process| (id.clone(), process)));
    Ok(number)
}

/// A line of `/proc/net/tcp` or `/proc/net/tcp6`.
struct Socket<'a> {
    local: (&'a str, u16),
    remote: (&'a str, u16),
    state: &'a str,
    inode: &'a str,
}

impl<'a> Socket<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split_whitespace().skip(1);
        let end = |field: &'a str| {
            let (address, port) = field.split_once(':')?;
            Some((address, u16::from_str_radix(port, 16).ok()?))
        };
        let (local, remote, state) = (end(fields.next()?)?, end(fields.next()?)?, fields.next()?);
        Some(Self { local, remote, state, inode: fields.nth(5)? })
    }

    /// Whether the address is `::1` or in `127.0.0.0/8`, in the kernel's notation and also as an IPv4-mapped address.
    fn is_loopback(address: &str) -> bool {
        let four = address.strip_prefix("0000000000000000FFFF0000").unwrap_or(address);
        address == "00000000000000000000000001000000" || (four.len() == 8 && four.ends_with("7F"))
    }
}

fn sockets(tables: &str) -> impl Iterator<Item = Socket<'_>> {
    tables.lines().filter_map(Socket::parse)
}

/// Whether a client on this host, other than the sockets in `own`, is connected to a port; and whether such a
/// connection was closed within the last minute.
fn clients(tables: &str, port: u16, own: &BTreeSet<String>) -> (bool, bool) {
    let (mut open, mut closed) = (false, false);
    for socket in sockets(tables) {
        open |= socket.state == ESTABLISHED && socket.remote.1 == port && !own.contains(socket.inode);
        closed |= socket.state == TIME_WAIT && (socket.remote.1 == port || socket.local.1 == port);
    }
    (open, closed)
}

/// Whether a container closed an outside connection to this port within the last minute.
fn closed_inside(tables: &str, port: u16) -> bool {
    sockets(tables).any(|socket| {
        socket.state == TIME_WAIT && socket.local.1 == port && !Socket::is_loopback(socket.remote.0)
    })
}

/// Whether a container accepts outside connections on this port.
fn listens(tables: &str, port: u16) -> bool {
    sockets(tables).any(|socket| {
        socket.state == LISTEN && socket.local.1 == port && !Socket::is_loopback(socket.local.0)
    })
}

/// Socket tables of the network namespace of this process id; `self` selects ostler's own namespace.
fn tables(process: &str) -> Option<String> {
    let directory = Path::new("/proc").join(process).join("net");
    let mut tables = fs::read_to_string(directory.join("tcp")).ok()?;
    // Does not exist if the kernel has no IPv6.
    tables.push_str(&fs::read_to_string(directory.join("tcp6")).unwrap_or_default());
    Some(tables)
}

/// Inodes of this process's own sockets.
fn own() -> BTreeSet<String> {
    let files = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let inode = |file: fs::DirEntry| {
        let target = fs::read_link(file.path()).ok()?;
        Some(target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
    };
    files.filter_map(inode).collect()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    const HEAD: &str =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";

    fn table(lines: &[(&str, &str, &str, &str)]) -> String {
        let line = |(local, remote, state, inode): &(&str, &str, &str, &str)| {
            format!(
                "   0: {local} {remote} {state} 00000000:00000000 00:00000000 00000000  1000        0 {inode} 1\n"
            )
        };
        HEAD.to_owned() + &lines.iter().map(line).collect::<String>()
    }

    #[test]
    fn clients_are_detected_by_the_port_they_connect_to() {
        let own = BTreeSet::from(["7".to_owned()]);
        let port = 0x5208;
        for (line, expected) in [
            (("0100007F:9C40", "0100007F:5208", ESTABLISHED, "8"), (true, false)),
            (
                ("0000000000000000FFFF00000100007F:9C40", "0000000000000000FFFF00000100007F:5208", "01", "8"),
                (true, false),
            ),
            (("0100007F:9C40", "0100007F:5208", ESTABLISHED, "7"), (false, false)),
            (("0100007F:5208", "0100007F:9C40", ESTABLISHED, "8"), (false, false)),
            (("0100007F:9C40", "0100007F:5208", TIME_WAIT, "0"), (false, true)),
            (("0100007F:5208", "0100007F:9C40", TIME_WAIT, "0"), (false, true)),
            (("0100007F:5208", "00000000:0000", LISTEN, "8"), (false, false)),
            (("0100007F:9C40", "0100007F:5209", ESTABLISHED, "8"), (false, false)),
        ] {
            assert_eq!(clients(&table(&[line]), port, &own), expected, "{line:?}");
        }
    }

    #[test]
    fn container_sockets_count_only_if_not_loopback() {
        for (address, reachable) in [
            ("00000000", true),
            ("0100007F", false),
            ("0102590A", true),
            ("00000000000000000000000000000000", true),
            ("00000000000000000000000001000000", false),
            ("0000000000000000FFFF00000100007F", false),
            ("0000000000000000FFFF00000102590A", true),
        ] {
            let local = format!("{address}:1F40");
            assert_eq!(
                listens(&table(&[(&local, "00000000:0000", LISTEN, "1")]), 8000),
                reachable,
                "{address}"
            );
        }
        assert!(!listens(&table(&[("00000000:1F41", "00000000:0000", LISTEN, "1")]), 8000));
        assert!(closed_inside(&table(&[("0202590A:1F40", "0102590A:9C40", TIME_WAIT, "0")]), 8000));
        for own in ["0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"] {
            let (local, remote) = (format!("{own}:1F40"), format!("{own}:9C40"));
            assert!(!closed_inside(&table(&[(&local, &remote, TIME_WAIT, "0")]), 8000), "{own}");
        }
        assert!(!closed_inside(&table(&[("0202590A:9C40", "0102590A:1F40", TIME_WAIT, "0")]), 8000));
    }

    #[test]
    fn own_connections_are_not_counted_as_clients() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let _client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let tables = tables("self").unwrap();
        // Only `.0` is checked: for `.1`, the kernel may remember recently closed connections of other processes to
        // this port.
        assert!(clients(&tables, port, &BTreeSet::new()).0);
        assert!(!clients(&tables, port, &own()).0);
    }
}
