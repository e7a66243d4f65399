//! Checks where ostler listens for agents.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use super::description::{Network, Reach};
use crate::{
    api::doctor::Check,
    doctor::verdict::{fail, ok, warn},
    domain::address::uncovered,
};

/// Maximum number of addresses that one check names.
const MOST_ADDRESSES: usize = 4;

/// Whether a running workspace has been proven to reach this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    Reached,
    Missing,
    NoneRunning,
}

/// Checks where ostler listens for agents, and whether other machines reach those addresses.
pub(super) fn listen_check(
    network: &Network,
    reach: &Result<Reach, String>,
    bound: &BTreeSet<IpAddr>,
    proof: Proof,
) -> Check {
    let mut seen_by_others = Vec::new();
    let mut addresses = Vec::new();
    let mut note = |address: IpAddr, others: bool| {
        let address = SocketAddr::new(address, network.port).to_string();
        seen_by_others.extend(others.then(|| address.clone()));
        addresses.push(address);
    };
    if network.listen.is_empty() {
        note(IpAddr::from([127, 0, 0, 1]), false);
        for address in bound {
            note(*address, false);
        }
    }
    for address in &network.listen {
        let others = match reach {
            Ok(reach) if reach.addresses.contains(address) => reach.reachable_from_lan,
            Ok(_) | Err(_) => !address.is_loopback(),
        };
        note(*address, others);
    }
    let listed = addresses.len().min(MOST_ADDRESSES);
    let more = match addresses.len() - listed {
        0 => String::new(),
        more => format!(" and {more} more gateways of workspaces' networks"),
    };
    let listening = format!("listening for agents on {}{more}", addresses[..listed].join(" and "));
    if network.listen.is_empty()
        && let Some(check) = unserved(network, reach, bound, &listening, proof)
    {
        return check;
    }
    let mut found = listening;
    let mut advice = Vec::new();
    if let Some(cut_off) = cut_off(network, reach, proof == Proof::Reached) {
        found = format!("{found}; {cut_off}");
        advice.push(ADD_LISTEN.to_owned());
    }
    if !seen_by_others.is_empty() {
        found = format!("{found}; other machines may be able to reach {}", seen_by_others.join(" and "));
        let keeps_out = if reach.as_ref().is_ok_and(|reach| reach.rootless) {
            "to keep other machines out, add a firewall rule for the external interfaces, or remove `network.listen`: \
             ostler then closes their connections. Other addresses in `network.listen` would cut the workspaces off"
        } else {
            "to keep other machines out, add a firewall rule or set `network.listen`"
        };
        advice.push(format!("all requests but `/health` need a token; {keeps_out}"));
    } else if network.listen.is_empty() && reach.as_ref().is_ok_and(|reach| reach.reachable_from_lan) {
        found.push_str("; connections from other machines are closed");
    }
    if advice.is_empty() { ok("listen", found) } else { warn("listen", found, advice.join("\n")) }
}

const ADD_LISTEN: &str = "add the address to `network.listen`, remove `network.listen`, or set \
                          `network.platform_url` to the URL at which workspaces reach ostler";

/// Describes the addresses that workspaces are given, but `network.listen` does not include. `None` if there are none.
fn cut_off(network: &Network, reach: &Result<Reach, String>, is_reached: bool) -> Option<String> {
    let reach = reach.as_ref().ok().filter(|_| !network.is_url_configured)?;
    // Some versions of rootless Podman route workspaces to an address that is not in `reach`. If a workspace reached
    // ostler, `network.listen` includes the address that this version uses.
    if is_reached && reach.rootless {
        return None;
    }
    let missing = uncovered(&network.listen, &reach.addresses);
    (!missing.is_empty()).then(|| {
        let missing: Vec<_> = missing.iter().take(MOST_ADDRESSES).map(ToString::to_string).collect();
        format!(
            "workspaces use {}, which `network.listen` does not include, so their heartbeats do not arrive",
            missing.join(" and ")
        )
    })
}

/// Result of the listen check if the addresses at which workspaces reach this host are not known, or not all bound.
fn unserved(
    network: &Network,
    reach: &Result<Reach, String>,
    bound: &BTreeSet<IpAddr>,
    listening: &str,
    proof: Proof,
) -> Option<Check> {
    let port = network.port;
    let why = match reach {
        Ok(reach) => {
            let missing: Vec<_> = reach.addresses.difference(bound).collect();
            let named = missing.iter().take(MOST_ADDRESSES);
            let named: Vec<_> = named.map(|address| SocketAddr::new(**address, port).to_string()).collect();
            // Workspaces may need none of these addresses if `network.platform_url` gives them another one.
            let verdict: fn(&str, String, String) -> Check =
                if proof == Proof::Reached || network.is_url_configured { warn } else { fail };
            return (!missing.is_empty()).then(|| {
                verdict(
                    "listen",
                    format!(
                        "{listening}, but not on {} of {} addresses at which workspaces reach this host: {}",
                        missing.len(),
                        reach.addresses.len(),
                        named.join(" and ")
                    ),
                    format!(
                        "ostler tries again every 30 s, and its log shows the error. If another program uses port {port} \
                         there, set another port with `network.port`"
                    ),
                )
            });
        }
        Err(why) => why,
    };
    let advice = "ostler binds the address once the engine reports it; `network.listen` can set it instead";
    Some(match (bound.is_empty(), proof) {
        (false, Proof::Reached | Proof::NoneRunning) => ok(
            "listen",
            format!(
                "{listening}, the last known addresses of this host for workspaces; the current ones are not known: {why}"
            ),
        ),
        (false, Proof::Missing) => warn(
            "listen",
            format!(
                "{listening}, the last known addresses of this host for workspaces; the current ones are not known, and no \
                 running workspace has reached ostler yet: {why}"
            ),
            advice,
        ),
        (true, Proof::NoneRunning) => {
            warn("listen", format!("{listening} only, so workspaces cannot reach ostler yet: {why}"), advice)
        }
        (true, Proof::Reached) => ok(
            "listen",
            format!("{listening}; the address of this host for workspaces is not known at present: {why}"),
        ),
        (true, Proof::Missing) => fail(
            "listen",
            format!("{listening} only, and no running workspace is known to reach ostler: {why}"),
            advice,
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::network::fixture::network;

    fn listening(listen: &[&str], reach: Result<(&str, bool), &str>) -> (String, String) {
        let bound = reach.map_or("", |(address, _)| address);
        with_bound(listen, reach, bound, Proof::NoneRunning)
    }

    fn addresses(bound: &str) -> BTreeSet<IpAddr> {
        bound.split_whitespace().map(|address| address.parse().unwrap()).collect()
    }

    fn with_bound(
        listen: &[&str],
        reach: Result<(&str, bool), &str>,
        bound: &str,
        proof: Proof,
    ) -> (String, String) {
        // Only a rootless engine has an address that other machines reach.
        let reach = reach.map(|(address, reachable_from_lan)| Reach {
            addresses: BTreeSet::from([address.parse().unwrap()]),
            reachable_from_lan,
            rootless: reachable_from_lan,
            outdated: BTreeSet::new(),
        });
        let check = listen_check(&network(listen), &reach.map_err(str::to_owned), &addresses(bound), proof);
        (check.verdict, format!("{} {}", check.found, check.advice.unwrap_or_default()).trim().to_owned())
    }

    #[test]
    fn listen_setting_without_workspace_address_is_warned_about() {
        for (listen, reach) in [
            (&["127.0.0.1"][..], Ok(("192.168.1.10", true))),
            (&["127.0.0.1"], Ok(("10.89.0.1", false))),
            (&["127.0.0.1", "10.89.7.1"], Ok(("10.89.0.1", false))),
        ] {
            let (verdict, text) = listening(listen, reach);
            assert_eq!(verdict, "warn", "{text}");
            let address = reach.unwrap().0;
            assert!(text.contains(&format!("workspaces use {address}")), "{text}");
        }
        assert_eq!(listening(&["0.0.0.0"], Ok(("10.89.0.1", false))).1.find("workspaces use"), None);
        let advertised = Network { is_url_configured: true, ..network(&["127.0.0.1"]) };
        let reach = Reach {
            addresses: BTreeSet::from(["10.89.0.1".parse().unwrap()]),
            reachable_from_lan: false,
            rootless: false,
            outdated: BTreeSet::new(),
        };
        assert_eq!(
            listen_check(&advertised, &Ok(reach), &BTreeSet::new(), Proof::NoneRunning).verdict,
            "ok",
            "workspaces use another address"
        );
    }

    #[test]
    fn rootless_listen_advice_is_to_omit_the_listen_setting() {
        let (verdict, text) = listening(&["0.0.0.0"], Ok(("192.168.1.10", true)));
        assert_eq!(verdict, "warn", "{text}");
        assert!(text.contains("or remove `network.listen`"), "{text}");
        let (_, text) = listening(&["0.0.0.0"], Ok(("10.89.0.1", false)));
        assert!(
            text.contains("keep other machines out, add a firewall rule or set `network.listen`"),
            "{text}"
        );
    }

    #[test]
    fn addresses_that_are_not_bound_are_reported() {
        use Proof::{Missing, NoneRunning, Reached};
        let gateway = Ok(("10.89.0.1", false));
        let last = "127.0.0.1:7717 and 10.89.0.1:7717";
        for (reach, bound, proof, verdict, advertised) in [
            (gateway, "", Missing, "fail", "not on 1 of 1 addresses"),
            (gateway, "", NoneRunning, "fail", "10.89.0.1:7717"),
            (gateway, "", Reached, "warn", "not on 1 of 1 addresses"),
            (gateway, "10.89.0.1", Missing, "ok", last),
            (Err("away"), "10.89.0.1", Reached, "ok", last),
            (Err("away"), "10.89.0.1", NoneRunning, "ok", last),
            (Err("away"), "10.89.0.1", Missing, "warn", last),
            (Err("away"), "", Missing, "fail", "127.0.0.1:7717 only"),
            (Err("away"), "", NoneRunning, "warn", "127.0.0.1:7717 only"),
            (Err("away"), "", Reached, "ok", "127.0.0.1:7717"),
        ] {
            let (found, text) = with_bound(&[], reach, bound, proof);
            assert!(
                found == verdict && text.contains(advertised),
                "{reach:?}, {bound}, {proof:?}: {found}, {text}"
            );
        }
    }

    #[test]
    fn address_reachable_from_other_machines_is_warned_about() {
        let gateway = Ok(("10.89.0.1", false));
        let (verdict, found) = listening(&[], gateway);
        assert_eq!(verdict, "ok", "{found}");
        assert!(found.ends_with("127.0.0.1:7717 and 10.89.0.1:7717"), "{found}");
        assert_eq!(
            listening(&["127.0.0.1", "10.89.0.1"], gateway).0,
            "ok",
            "the gateway is an address of this host"
        );
        let (verdict, found) = listening(&[], Ok(("192.168.1.10", true)));
        assert_eq!(verdict, "ok", "rootless: connections from other machines are closed: {found}");
        assert!(found.ends_with("192.168.1.10:7717; connections from other machines are closed"), "{found}");
        for (listen, reach) in [
            (&["192.168.1.10"][..], Ok(("192.168.1.10", true))),
            (&["0.0.0.0"], gateway),
            (&["::"], gateway),
            (&["192.168.1.10"], gateway),
            (&["0.0.0.0"], Err("away")),
        ] {
            let (verdict, found) = listening(listen, reach);
            assert_eq!(verdict, "warn", "{found}");
            assert!(found.contains("other machines"), "{found}");
        }
    }

    #[test]
    fn listen_check_gives_reason_for_unknown_gateway_address() {
        let (verdict, found) = listening(&[], Err("the engine is away"));
        assert_eq!(verdict, "warn");
        assert!(found.contains("the engine is away") && found.contains("127.0.0.1:7717 only"), "{found}");
    }
}
