//! Resolves host names, and reads the addresses and networks of this machine.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _},
};

use tokio::sync::Semaphore;

use crate::{domain::address::Surroundings, runtime::clock::Boxed};

/// Resolves names; tests replace it.
pub(crate) trait Resolve: Send + Sync {
    /// All addresses of `host`, with `port`.
    fn resolve(&self, host: String, port: u16) -> Boxed<io::Result<Vec<SocketAddr>>>;

    /// The current addresses and attached networks of this machine.
    fn surroundings(&self) -> Surroundings;
}

/// The operating system's resolver.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve(&self, host: String, port: u16) -> Boxed<io::Result<Vec<SocketAddr>>> {
        Box::pin(lookup(&LOOKUPS, move || Ok((host.as_str(), port).to_socket_addrs()?.collect())))
    }

    fn surroundings(&self) -> Surroundings {
        // Read from procfs, which needs no disk access. If the files are missing (another kernel), the other rules
        // still apply.
        let read = |file| std::fs::read_to_string(file).unwrap_or_default();
        let mut around = Surroundings::default();
        read_fib_trie(&read("/proc/net/fib_trie"), &mut around);
        read_ipv6_routes(&read("/proc/net/ipv6_route"), &mut around);
        around
    }
}

/// Limit of concurrent lookups.
///
/// When name servers do not respond, a lookup occupies its thread for longer than any caller waits, and file I/O uses
/// the same thread pool.
static LOOKUPS: Semaphore = Semaphore::const_new(16);

/// Runs a lookup in a blocking thread, once there is a permit. The thread holds the permit until the lookup ends, even
/// if the caller has stopped waiting.
async fn lookup<T: Send + 'static>(
    permits: &'static Semaphore,
    lookup_call: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let permit = permits.acquire().await.map_err(io::Error::other)?;
    let lookup_task = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        lookup_call()
    });
    lookup_task.await.map_err(io::Error::other)?
}

/// Whether `address` belongs to this machine now.
pub(crate) fn is_own_address(address: IpAddr) -> bool {
    SystemResolver.surroundings().own.contains(&address)
}

/// Parses `/proc/net/fib_trie` (IPv4): a line with an address, followed by lines with its type, such as `/32 host
/// LOCAL` or `/24 link UNICAST`.
fn read_fib_trie(text: &str, around: &mut Surroundings) {
    let mut address = None;
    for line in text.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        match (words.as_slice(), address) {
            (["|--", text], _) => address = text.parse::<Ipv4Addr>().ok(),
            ([prefix, scope, kind], Some(ip)) if prefix.starts_with('/') => {
                let prefix = prefix.trim_start_matches('/').parse().unwrap_or(32);
                match (*scope, *kind) {
                    ("host", "LOCAL") if prefix == 32 => around.own.push(ip.into()),
                    ("link", "UNICAST") if prefix > 0 => around.attached.push((ip.into(), prefix)),
                    _ => {}
                }
            }
            _ => {}
        }
    }
}

/// Parses `/proc/net/ipv6_route`. Columns: destination, prefix length, source, prefix length, next hop, three others,
/// flags (the ninth), device; the numbers are hexadecimal.
fn read_ipv6_routes(text: &str, around: &mut Surroundings) {
    const REJECT: u32 = 0x0200;
    const LOCAL: u32 = 0x8000_0000;
    const ANYCAST: u32 = 0x0010_0000;
    for line in text.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        let [destination, prefix, _, _, next_hop, _, _, _, flags, _] = words.as_slice() else { continue };
        let (Ok(ip), Ok(prefix), Ok(flags)) = (
            u128::from_str_radix(destination, 16),
            u8::from_str_radix(prefix, 16),
            u32::from_str_radix(flags, 16),
        ) else {
            continue;
        };
        let ip = IpAddr::from(Ipv6Addr::from_bits(ip));
        let is_direct = next_hop.bytes().all(|byte| byte == b'0');
        if flags & (LOCAL | ANYCAST) != 0 && prefix == 128 {
            around.own.push(ip);
        } else if is_direct && prefix > 0 && flags & REJECT == 0 {
            around.attached.push((ip, prefix));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_addresses_and_networks_are_read_from_kernel_tables() {
        let mut around = Surroundings::default();
        read_fib_trie(
            "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n           |-- 127.0.0.0\n\
             \x20             /8 host LOCAL\n           |-- 127.0.0.1\n              /32 host LOCAL\n\
             \x20          |-- 8.8.4.0\n              /24 link UNICAST\n           |-- 8.8.4.7\n\
             \x20             /32 host LOCAL\n        |-- 8.8.4.255\n           /32 link BROADCAST\n",
            &mut around,
        );
        let zero = "0".repeat(32);
        let line = |destination: &str, prefix: &str, next_hop: &str, flags: &str| {
            format!(
                "{destination} {prefix} {zero} 00 {next_hop} 00000100 00000001 00000000 {flags}     eth0\n"
            )
        };
        let (network, own) = ("2a001450000000000000000000000000", "2a001450000000000000000000000007");
        let gateway = "fe800000000000000000000000000001";
        let routes = [
            line(network, "40", &zero, "00000001"),
            line(&zero, "00", gateway, "00000003"),
            line("2a0014500001000000000000000000000", "40", gateway, "00000003"),
            line(own, "80", &zero, "80200001"),
            line(&zero, "00", &zero, "00200200"),
            "nonsense\n".to_owned(),
        ];
        read_ipv6_routes(&routes.concat(), &mut around);
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(around.own, [ip("127.0.0.1"), ip("8.8.4.7"), ip("2a00:1450::7")]);
        assert_eq!(around.attached, [(ip("8.8.4.0"), 24), (ip("2a00:1450::"), 64)]);
        let here = SystemResolver.surroundings();
        assert!(here.own.contains(&ip("127.0.0.1")), "the loopback address is missing: {here:?}");
    }

    #[tokio::test]
    async fn abandoned_lookup_keeps_its_permit_until_it_finishes() {
        static PERMITS: Semaphore = Semaphore::const_new(1);
        let (end, ends) = std::sync::mpsc::channel::<()>();
        let (begun, has_begun) = tokio::sync::oneshot::channel();
        let mut first = Box::pin(lookup(&PERMITS, move || {
            let _sent = begun.send(());
            let _ended = ends.recv();
            Ok(1)
        }));
        tokio::select! {
            biased;
            _ = &mut first => panic!("the lookup has not ended"),
            begun = has_begun => begun.unwrap(),
        }
        drop(first);
        assert_eq!(PERMITS.available_permits(), 0, "the permit of the busy thread was released");
        let mut second = Box::pin(lookup(&PERMITS, || Ok(2)));
        assert!(futures_util::poll!(&mut second).is_pending(), "the second lookup must wait for a permit");
        end.send(()).unwrap();
        assert_eq!(second.await.unwrap(), 2);
    }

    #[tokio::test]
    async fn system_resolver_resolves_localhost_to_loopback() {
        let addresses = SystemResolver.resolve("localhost".into(), 7).await.unwrap();
        assert!(addresses.iter().all(|address| address.ip().is_loopback() && address.port() == 7));
    }
}
