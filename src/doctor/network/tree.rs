//! Checks which packets pass between workspaces.

use super::description::Network;
use crate::{
    api::doctor::Check,
    doctor::{
        parts::Doctor,
        verdict::{ok, warn},
    },
    domain::{
        ids::InstanceId,
        naming::{LABEL_INSTANCE, instance_name, network_name},
    },
    store::Described,
};

/// A container and its networks.
#[derive(Clone, Debug)]
pub(super) struct Attached {
    /// The workspace's name, or the container's if it belongs to no row.
    name: String,
    /// The name of the workspace's own network; `None` if the container belongs to no row.
    own: Option<String>,
    networks: Vec<String>,
}

impl Doctor {
    /// Lists this instance's containers with the networks that they are attached to in the engine. The value of
    /// `network.isolate` does not answer this: it applies only to containers created after it was set.
    pub(super) async fn attached(&self, rows: &[Described]) -> Result<Vec<Attached>, String> {
        let instance = self.0.instance.to_string();
        let listed = self.0.engine.list_containers(LABEL_INSTANCE, Some(&instance)).await;
        let listed = listed.map_err(|error| error.to_string())?;
        let attached = listed.into_iter().filter_map(|container| {
            let row = rows.iter().find(|one| one.row.container.as_ref() == Some(&container.id));
            let (name, own) = match row {
                Some(one) => (one.row.name.to_string(), Some(network_name(one.row.id))),
                // A running container without a row can also share a network with others.
                None if container.state.may_run() => (format!("container {}", container.name), None),
                None => return None,
            };
            Some(Attached { name, own, networks: container.networks })
        });
        let mut attached: Vec<_> = attached.collect();
        attached.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(attached)
    }
}

/// Checks which packets pass between workspaces, from the networks that their containers are attached to.
pub(super) fn between(
    network: &Network,
    rootless: bool,
    instance: InstanceId,
    attached: &Result<Vec<Attached>, String>,
) -> Check {
    const TREE: &str = "the workspace tree controls discovery and messages";
    let attached = match attached {
        Ok(attached) => attached,
        Err(error) => {
            return warn(
                "tree",
                format!("{TREE}. It is not known which packets pass between workspaces: {error}"),
                "run `ostler doctor` again once Podman answers",
            );
        }
    };
    if network.isolate {
        between_isolated(TREE, &(network.packets)(), rootless, &sharing(attached))
    } else {
        between_shared(TREE, rootless, &apart_from(&instance_name(instance), attached))
    }
}

/// Names of the containers that share a network with another container.
fn sharing(attached: &[Attached]) -> Vec<&str> {
    let shares = |one: &Attached| {
        let mut others = attached.iter().filter(|other| other.name != one.name);
        others.any(|other| other.networks.iter().any(|network| one.networks.contains(network)))
    };
    attached.iter().filter(|one| shares(one)).map(|one| one.name.as_str()).collect()
}

/// Names of the containers that are in their workspace's own network and not in the shared one.
fn apart_from<'a>(shared: &str, attached: &'a [Attached]) -> Vec<&'a str> {
    let is_apart = |one: &&Attached| {
        one.own.as_ref().is_some_and(|own| one.networks.contains(own))
            && !one.networks.iter().any(|network| network == shared)
    };
    attached.iter().filter(is_apart).map(|one| one.name.as_str()).collect()
}

/// Maximum number of workspaces that one check names.
const MOST_NAMES: usize = 20;

fn names(all: &[&str]) -> String {
    let listed = all.len().min(MOST_NAMES);
    match all.len() - listed {
        0 => all.join(", "),
        more => format!("{} and {more} more", all[..listed].join(", ")),
    }
}

const RECREATE: &str = "the setting applies to containers created from now on: `ostler recreate NAME` moves an existing \
                        workspace (its container is replaced, its volumes stay)";

fn between_isolated(tree: &str, packets: &Result<(), String>, rootless: bool, sharing: &[&str]) -> Check {
    let still = match sharing {
        [] => String::new(),
        sharing => {
            format!(" Still in a shared network, where they reach each other's ports: {}.", names(sharing))
        }
    };
    match packets {
        Ok(()) if sharing.is_empty() => ok(
            "tree",
            format!(
                "{tree}. Packets to workspaces are dropped unless they come from this host (`network.isolate`)"
            ),
        ),
        Ok(()) => warn(
            "tree",
            format!("{tree}. Packets between workspaces' networks are dropped (`network.isolate`).{still}"),
            RECREATE,
        ),
        Err(why) => {
            let needed = if rootless {
                "with rootless Podman, ostler cannot drop these packets. Only Podman's own `isolate` option applies, \
                 which netavark before 1.5 loses when a container stops."
            } else {
                "ostler needs root and `nft` (Debian package `nftables`) to drop these packets."
            };
            let proof =
                "Agents can use the header `X-Ostler-Proof` to verify that a request comes from ostler";
            let recreate = if sharing.is_empty() { String::new() } else { format!("\n{RECREATE}") };
            warn(
                "tree",
                format!(
                    "{tree}. Packets between workspaces may pass, although `network.isolate` is set: {why}.{still}"
                ),
                format!("{needed} {proof}{recreate}"),
            )
        }
    }
}

fn between_shared(tree: &str, rootless: bool, apart: &[&str]) -> Check {
    let isolate = if rootless {
        "With rootless Podman, ostler cannot drop packets between workspaces: `network.isolate = true` gives each \
         workspace its own network, and Podman may or may not separate these networks"
    } else {
        "`network.isolate = true` gives each workspace its own network and drops packets between them"
    };
    let proof = "agents can use the header `X-Ostler-Proof` to verify that a request comes from ostler";
    let packets = "The tree does not control packets:";
    match apart {
        [] => ok(
            "tree",
            format!(
                "{tree}. {packets} all workspaces share one network and reach each other's ports. {isolate}; {proof}"
            ),
        ),
        apart => warn(
            "tree",
            format!(
                "{tree}. {packets} workspaces share one network and reach each other's ports. Workspaces that were \
                 created while `network.isolate` was set may still be cut off from the others: {}",
                names(apart)
            ),
            RECREATE,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use crate::doctor::network::fixture::network;

    const INSTANCE: InstanceId = InstanceId(uuid::Uuid::from_u128(1));

    fn attached(all: &[(&str, &str)]) -> Vec<Attached> {
        let one = |(name, network): &(&str, &str)| Attached {
            name: (*name).to_owned(),
            own: Some(format!("{name}-net")),
            networks: vec![(*network).to_owned()],
        };
        all.iter().map(one).collect()
    }

    fn tree(isolate: bool, rootless: bool, all: &[(&str, &str)]) -> Check {
        let packets: Result<(), String> = if rootless { Err("rootless".into()) } else { Ok(()) };
        let network = Network { isolate, packets: Arc::new(move || packets.clone()), ..network(&[]) };
        between(&network, rootless, INSTANCE, &Ok(attached(all)))
    }

    #[test]
    fn tree_check_uses_the_networks_of_existing_containers() {
        let shared = &instance_name(INSTANCE)[..];
        let check = tree(true, false, &[("x3", shared), ("x4", shared), ("x5", "x5-net")]);
        assert_eq!(check.verdict, "warn", "{check:?}");
        assert!(check.found.contains("x3, x4") && !check.found.contains("x5"), "{check:?}");
        assert!(check.advice.is_some_and(|advice| advice.contains("ostler recreate")), "no advice");
        let check = tree(true, false, &[("x3", shared), ("x5", "x5-net")]);
        assert_eq!(
            check.verdict, "ok",
            "a workspace that is alone in its network reaches no other: {check:?}"
        );

        let check = tree(false, false, &[("x3", shared), ("x5", "x5-net")]);
        assert_eq!(check.verdict, "warn", "{check:?}");
        assert!(check.found.contains("cut off from the others: x5"), "{check:?}");
        assert_eq!(tree(false, false, &[("x3", shared), ("x4", shared)]).verdict, "ok");

        let unknown = between(&network(&[]), false, INSTANCE, &Err("no answer".into()));
        assert_eq!(unknown.verdict, "warn", "{unknown:?}");
    }

    #[test]
    fn rootless_tree_check_reports_that_packets_are_not_dropped() {
        let shared = &instance_name(INSTANCE)[..];
        let check = tree(false, true, &[("x3", shared)]);
        assert!(!check.found.contains("and drops packets"), "{check:?}");
        assert!(check.found.contains("cannot drop packets"), "{check:?}");
        let check = tree(true, true, &[("x3", "x3-net")]);
        assert_eq!(check.verdict, "warn", "{check:?}");
        assert!(check.advice.is_some_and(|advice| !advice.contains("needs root")), "wrong advice");
    }
}
