//! Which addresses the proxy may connect to.
//!
//! ostler's proxy connects to the url that an external agent registers. With a malicious url, the agent's author could
//! make the daemon connect to services that only the daemon can reach: a cloud's metadata service, a database on
//! loopback, a router on the local network. Every address that is not clearly on the public internet is therefore
//! refused. An operator can allow private networks and loopback, because agents often run on another machine of the
//! same network.
//!
//! An IPv6 address can contain an IPv4 address in several ways. If a host or a gateway would extract the IPv4 address
//! and connect to it, the rules for that IPv4 address apply. Writing an address in another form therefore never changes
//! the result.
//!
//! A public address can belong to this machine or to its local network: with IPv6, every device in a home can have a
//! public address. Therefore this machine's own addresses count as loopback, and the networks that it is directly
//! attached to count as private. One case cannot be detected here: a router's public address whose connections the
//! router forwards to this machine.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// What an operator allows in addition to public addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allow {
    /// Private networks: 10/8, 172.16/12, 192.168/16 and `fc00::/7`.
    pub private: bool,
    /// This machine: 127/8 and `::1`.
    pub loopback: bool,
}

/// Reason for refusing an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The unspecified address, 0.0.0.0 or `::`. A connection to it reaches this machine.
    Unspecified,
    /// This machine.
    Loopback,
    /// On a private network.
    Private,
    /// A public address on a network that this machine is directly attached to.
    Attached,
    /// Link-local. Cloud providers serve credentials at such an address.
    LinkLocal,
    /// Carrier-grade NAT: 100.64/10.
    CarrierNat,
    /// Reserved for documentation.
    Documentation,
    /// Multicast.
    Multicast,
    /// Broadcast.
    Broadcast,
    /// Not assigned to hosts on the internet: reserved, experimental, or assigned to a protocol.
    Reserved,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unspecified => "it is the unspecified address",
            Self::Loopback => "it is an address of this machine, which `external.allow_loopback` does not allow",
            Self::Private => "it is on a private network, which `external.allow_private` does not allow",
            Self::Attached => {
                "it is on a network that this machine is attached to, which `external.allow_private` does not allow"
            }
            Self::LinkLocal => "it is a link-local address, and cloud providers serve credentials at such addresses",
            Self::CarrierNat => "it is in the shared address space of carriers (100.64.0.0/10)",
            Self::Documentation => "it is reserved for documentation",
            Self::Multicast => "it is a multicast address",
            Self::Broadcast => "it is a broadcast address",
            Self::Reserved => "it is reserved and not routable on the internet",
        })
    }
}

/// The addresses of this machine, and the networks that it is directly attached to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Addresses of this machine.
    pub own: Vec<IpAddr>,
    /// Networks reached without a router: an address and the prefix length in bits.
    pub attached: Vec<(IpAddr, u8)>,
}

impl Surroundings {
    fn is_attached(&self, ip: IpAddr) -> bool {
        self.attached.iter().any(|(network, prefix)| match (ip, network) {
            (IpAddr::V4(ip), IpAddr::V4(network)) => {
                let apart = ip.to_bits() ^ network.to_bits();
                apart.leading_zeros() >= u32::from(*prefix)
            }
            (IpAddr::V6(ip), IpAddr::V6(network)) => {
                let apart = ip.to_bits() ^ network.to_bits();
                apart.leading_zeros() >= u32::from(*prefix)
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        })
    }
}

/// The reason for not connecting to `ip`; `None` if it is allowed.
#[must_use]
pub fn refused(ip: IpAddr, allow: Allow, around: &Surroundings) -> Option<Refusal> {
    let refusal = match ip {
        IpAddr::V4(ip) => refused_v4(ip, allow),
        IpAddr::V6(ip) => refused_v6(ip, allow),
    };
    if refusal.is_some() {
        return refusal;
    }
    let ip = match ip {
        IpAddr::V6(v6) => carried_v4(v6).map_or(ip, IpAddr::V4),
        IpAddr::V4(_) => ip,
    };
    // Private and loopback addresses were checked above. Only public and explicitly allowed addresses remain.
    if is_of_the_internet(ip) && around.own.contains(&ip) {
        return (!allow.loopback).then_some(Refusal::Loopback);
    }
    (is_of_the_internet(ip) && around.is_attached(ip) && !allow.private).then_some(Refusal::Attached)
}

/// Returns the addresses of `wanted` at which a daemon that listens on `listen` cannot be reached. If `listen` is
/// empty, the daemon chooses its addresses itself, and the result is empty.
#[must_use]
pub fn uncovered<'a>(listen: &[IpAddr], wanted: impl IntoIterator<Item = &'a IpAddr>) -> Vec<IpAddr> {
    // A socket on `::` also accepts IPv4 connections, unless `net.ipv6.bindv6only` is set on the host.
    let covers =
        |on: &IpAddr, ip: &IpAddr| on == ip || (on.is_unspecified() && (on.is_ipv6() || ip.is_ipv4()));
    let is_missing = |ip: &&IpAddr| !listen.is_empty() && !listen.iter().any(|on| covers(on, ip));
    wanted.into_iter().filter(is_missing).copied().collect()
}

fn is_of_the_internet(ip: IpAddr) -> bool {
    let nothing = Allow::default();
    match ip {
        IpAddr::V4(ip) => refused_v4(ip, nothing).is_none(),
        IpAddr::V6(ip) => refused_v6(ip, nothing).is_none(),
    }
}

fn refused_v4(ip: Ipv4Addr, allow: Allow) -> Option<Refusal> {
    let [a, b, c, _] = ip.octets();
    let refusal = match (a, b, c) {
        _ if ip.is_unspecified() => Refusal::Unspecified,
        _ if ip.is_loopback() => return (!allow.loopback).then_some(Refusal::Loopback),
        _ if ip.is_private() => return (!allow.private).then_some(Refusal::Private),
        _ if ip.is_link_local() => Refusal::LinkLocal,
        _ if ip.is_documentation() => Refusal::Documentation,
        _ if ip.is_multicast() => Refusal::Multicast,
        _ if ip.is_broadcast() => Refusal::Broadcast,
        (100, 64..=127, _) => Refusal::CarrierNat,
        // In this order: "this network" (0/8) and the reserved range above multicast; protocol assignments; the retired
        // 6to4 relays; networks for benchmarks.
        (0 | 240..=255, _, _) | (192, 0, 0) | (192, 88, 99) | (198, 18 | 19, _) => Refusal::Reserved,
        _ => return None,
    };
    Some(refusal)
}

fn refused_v6(ip: Ipv6Addr, allow: Allow) -> Option<Refusal> {
    if ip.is_unspecified() {
        return Some(Refusal::Unspecified);
    }
    if ip.is_loopback() {
        return (!allow.loopback).then_some(Refusal::Loopback);
    }
    if let Some(inner) = carried_v4(ip) {
        return refused_v4(inner, allow);
    }
    let refusal = match ip.segments() {
        _ if ip.is_multicast() => Refusal::Multicast,
        _ if ip.is_unicast_link_local() => Refusal::LinkLocal,
        _ if ip.is_unique_local() => return (!allow.private).then_some(Refusal::Private),
        [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => Refusal::Documentation,
        // Protocol assignments, including networks for benchmarks, ORCHID, and Teredo, whose addresses contain an IPv4
        // address.
        [0x2001, 0..=0x1ff, ..] => Refusal::Reserved,
        [0x2000..=0x3fff, ..] => return None,
        // Only 2000::/3 has been assigned to hosts on the internet.
        _ => Refusal::Reserved,
    };
    Some(refusal)
}

/// Returns the IPv4 address in an IPv6 address, if a host or a gateway on the path would extract it and connect to it.
fn carried_v4(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let two = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match ip.segments() {
        // In this order: IPv4-mapped and IPv4-compatible (long retired, but still supported); translated (SIIT); NAT64;
        // 6to4.
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => Some(two(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Allow = Allow { private: false, loopback: false };
    const PRIVATE: Allow = Allow { private: true, loopback: false };
    const LOOPBACK: Allow = Allow { private: false, loopback: true };
    const BOTH: Allow = Allow { private: true, loopback: true };

    fn judge(address: &str, allow: Allow) -> Option<Refusal> {
        refused(address.parse().unwrap(), allow, &Surroundings::default())
    }

    #[test]
    fn public_addresses_of_this_machine_and_its_networks_are_refused() {
        let around = Surroundings {
            own: ["8.8.4.7", "2a00:1450::7", "192.168.1.5"].map(|text| text.parse().unwrap()).to_vec(),
            attached: [("8.8.4.0", 24), ("2a00:1450::", 64), ("192.168.1.0", 24)]
                .map(|(text, prefix)| (text.parse().unwrap(), prefix))
                .to_vec(),
        };
        let judge = |text: &str, allow| refused(text.parse().unwrap(), allow, &around);
        for own in ["8.8.4.7", "2a00:1450::7", "::ffff:8.8.4.7", "64:ff9b::8.8.4.7"] {
            assert_eq!(judge(own, PRIVATE), Some(Refusal::Loopback), "{own}");
            assert_eq!(judge(own, LOOPBACK), None, "{own}, allowed");
        }
        for attached in ["8.8.4.1", "8.8.4.255", "2a00:1450::ffff:1", "2002:808:401::1"] {
            assert_eq!(judge(attached, LOOPBACK), Some(Refusal::Attached), "{attached}");
            assert_eq!(judge(attached, PRIVATE), None, "{attached}, allowed");
        }
        for elsewhere in ["8.8.5.1", "8.8.3.255", "2a00:1450:0:1::1", "1.1.1.1"] {
            assert_eq!(judge(elsewhere, NOTHING), None, "{elsewhere}");
        }
        // A private address of this machine counts as private only, not also as loopback.
        assert_eq!(judge("192.168.1.5", PRIVATE), None);
        assert_eq!(judge("192.168.1.5", NOTHING), Some(Refusal::Private));
    }

    #[test]
    fn public_internet_addresses_are_allowed() {
        for address in [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.1",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2606:4700:4700::1111",
            "2a00:1450::1",
            "2001:200::1",
            "2001:4860:4860::8888",
            "::ffff:8.8.8.8",
            "::ffff:0:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2002:808:808::1",
        ] {
            assert_eq!(judge(address, NOTHING), None, "{address}");
        }
    }

    #[test]
    fn special_purpose_addresses_are_always_refused() {
        for (address, refusal) in [
            ("0.0.0.0", Refusal::Unspecified),
            ("0.0.0.1", Refusal::Reserved),
            ("0.255.255.255", Refusal::Reserved),
            ("100.64.0.0", Refusal::CarrierNat),
            ("100.127.255.255", Refusal::CarrierNat),
            ("169.254.0.0", Refusal::LinkLocal),
            ("169.254.169.254", Refusal::LinkLocal),
            ("192.0.0.1", Refusal::Reserved),
            ("192.0.2.1", Refusal::Documentation),
            ("198.51.100.1", Refusal::Documentation),
            ("203.0.113.1", Refusal::Documentation),
            ("192.88.99.1", Refusal::Reserved),
            ("198.18.0.1", Refusal::Reserved),
            ("198.19.255.255", Refusal::Reserved),
            ("224.0.0.1", Refusal::Multicast),
            ("239.255.255.255", Refusal::Multicast),
            ("240.0.0.1", Refusal::Reserved),
            ("255.255.255.254", Refusal::Reserved),
            ("255.255.255.255", Refusal::Broadcast),
            ("::", Refusal::Unspecified),
            ("::ffff:0.0.0.0", Refusal::Unspecified),
            ("::ffff:169.254.169.254", Refusal::LinkLocal),
            ("::ffff:0:169.254.169.254", Refusal::LinkLocal),
            ("::169.254.169.254", Refusal::LinkLocal),
            ("64:ff9b::169.254.169.254", Refusal::LinkLocal),
            ("64:ff9b::255.255.255.255", Refusal::Broadcast),
            // A prefix for local NAT64: the network's operator chooses where the IPv4 address is in it.
            ("64:ff9b:1::a9fe:a9fe", Refusal::Reserved),
            ("2002:a9fe:a9fe::1", Refusal::LinkLocal),
            ("2002:6440:1::", Refusal::CarrierNat),
            ("2001::1", Refusal::Reserved),
            ("2001:0:a9fe:a9fe::", Refusal::Reserved),
            ("2001:2::1", Refusal::Reserved),
            ("2001:20::1", Refusal::Reserved),
            ("2001:db8::1", Refusal::Documentation),
            ("3fff::1", Refusal::Documentation),
            ("100::1", Refusal::Reserved),
            ("5f00::1", Refusal::Reserved),
            ("fe80::1", Refusal::LinkLocal),
            ("febf:ffff::1", Refusal::LinkLocal),
            ("fec0::1", Refusal::Reserved),
            ("ff02::1", Refusal::Multicast),
            ("4000::1", Refusal::Reserved),
            ("::2:0:0:1", Refusal::Reserved),
        ] {
            assert_eq!(judge(address, NOTHING), Some(refusal), "{address}");
            assert_eq!(judge(address, BOTH), Some(refusal), "{address}, everything allowed");
        }
    }

    #[test]
    fn private_networks_are_refused_unless_they_are_allowed() {
        for address in [
            "10.0.0.1",
            "10.255.255.255",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.0.1",
            "fc00::1",
            "fdff::1",
            "::ffff:10.0.0.1",
            "::10.0.0.1",
            "64:ff9b::192.168.1.1",
            "2002:c0a8:101::1",
            "2002:ac10:1::1",
        ] {
            assert_eq!(judge(address, LOOPBACK), Some(Refusal::Private), "{address}");
            assert_eq!(judge(address, PRIVATE), None, "{address}, allowed");
        }
    }

    #[test]
    fn loopback_addresses_are_refused_unless_they_are_allowed() {
        for address in [
            "127.0.0.1",
            "127.255.255.255",
            "::1",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "64:ff9b::127.0.0.1",
            "2002:7f00:1::1",
        ] {
            assert_eq!(judge(address, PRIVATE), Some(Refusal::Loopback), "{address}");
            assert_eq!(judge(address, LOOPBACK), None, "{address}, allowed");
        }
    }
}
