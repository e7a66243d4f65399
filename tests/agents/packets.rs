//! `network.isolate`, tested with packets between containers, their gateways and their published ports.

use super::{Agent, doctor::check, make};
use crate::support::{daemon::Site, podman::podman_output};

/// The port on which an agent listens inside its container.
const AGENT_PORT: u16 = 8000;

/// A workspace with an agent that answers, and its addresses.
struct Neighbour {
    container: String,
    address: String,
    gateway: String,
    host_port: u16,
}

impl Neighbour {
    fn running(site: &Site, name: &str) -> Self {
        let agent: Agent = make(site, name, &[]);
        // An answer proves that the agent's server listens.
        agent.ask_text(site, "hello");
        let row = site.show(name);
        let container = row["container_id"].as_str().expect("the workspace has a container").to_owned();
        let address_field = |field: &str| {
            let template = format!("{{{{range .NetworkSettings.Networks}}}}{{{{.{field}}}}}{{{{end}}}}");
            podman_output(["inspect", &container, "--format", &template]).trim().to_owned()
        };
        let (address, gateway) = (address_field("IPAddress"), address_field("Gateway"));
        let host_port = row["host_port"].as_u64().and_then(|port| u16::try_from(port).ok());
        Self { container, address, gateway, host_port: host_port.expect("the workspace publishes a port") }
    }

    /// Whether a TCP connection from inside this container succeeds.
    fn reaches(&self, address: &str, port: u16) -> bool {
        let script =
            format!("nc -w 3 {address} {port} </dev/null >/dev/null 2>&1 && echo open || echo closed");
        let found = podman_output(["exec", &self.container, "sh", "-c", &script]);
        match found.trim() {
            "open" => true,
            "closed" => false,
            other => panic!("no answer from inside the container: {other:?}"),
        }
    }
}

/// Removes a site's firewall rules at the end of a test, because they stay in force after the daemon has exited.
struct Rules(String);

impl Rules {
    fn of(site: &Site) -> Self {
        Self(format!("ostler_{}", site.instance().replace('-', "_")))
    }
}

impl Drop for Rules {
    fn drop(&mut self) {
        let deleted = std::process::Command::new("nft").args(["delete", "table", "inet", &self.0]).status();
        assert!(deleted.is_ok_and(|status| status.success()), "the rules were not in force: {}", self.0);
    }
}

#[test]
fn isolated_workspaces_reach_ostler_and_no_other_workspace() {
    let mut site = Site::new("[network]\nisolate = true\n");
    site.serve();
    let _rules = Rules::of(&site);
    let (one, other) = (Neighbour::running(&site, "one"), Neighbour::running(&site, "other"));
    assert_ne!(one.gateway, other.gateway, "both workspaces are in one network");
    // Netavark 1.4 disables its isolation rules when any isolated container stops.
    make(&site, "third", &[]);
    site.ostler(["stop", "third"]).well();
    for (from, to) in [(&one, &other), (&other, &one)] {
        assert!(!from.reaches(&to.address, AGENT_PORT), "a packet reached the other workspace");
        assert!(
            !from.reaches(&to.gateway, to.host_port),
            "a published port was reached through the gateway of its workspace"
        );
        assert!(
            !from.reaches(&from.gateway, to.host_port),
            "a published port was reached through the gateway of the caller"
        );
        assert!(
            from.reaches(&from.gateway, site.network_port()),
            "ostler is not reached through the gateway"
        );
        // The same probe succeeds where nothing is blocked, so the tool itself works.
        assert!(from.reaches("127.0.0.1", AGENT_PORT), "the probe fails inside one container");
    }
}

#[test]
fn workspaces_of_a_shared_network_reach_each_other() {
    let mut site = Site::new("[network]\nisolate = false\n");
    site.serve();
    let (one, other) = (Neighbour::running(&site, "one"), Neighbour::running(&site, "other"));
    assert_eq!(one.gateway, other.gateway, "the workspaces have separate networks");
    assert!(one.reaches(&other.address, AGENT_PORT), "one workspace does not reach the other");
    assert!(
        !one.reaches(&one.gateway, other.host_port),
        "a published port was reached, although only this host may reach it"
    );
    assert!(one.reaches(&one.gateway, site.network_port()), "ostler is not reached through the gateway");
}

/// A changed `network.isolate` applies only to new containers. Which packets pass depends on the networks in which the
/// existing containers are.
#[test]
fn doctor_names_containers_on_old_network_after_isolate_change() {
    let mut site = Site::new("[network]\nisolate = false\n");
    site.serve();
    site.create_all(&[("x3", None), ("x4", None), ("x5", None)]);
    site.stop();
    site.configure("[network]\nisolate = true\n");
    site.serve();
    let rules = Rules::of(&site);
    site.ostler(["recreate", "x5"]).well();
    let tree = check(&site, "tree");
    assert_eq!(tree["verdict"], "warn", "x3 and x4 share a network: {tree}");
    let found = tree["found"].as_str().unwrap();
    assert!(found.contains("x3, x4") && !found.contains("x5"), "{tree}");
    // A container that does not run is still attached to its network.
    site.ostler(["stop", "x4"]).well();
    assert!(check(&site, "tree")["found"].as_str().unwrap().contains("x3, x4"));
    site.ostler(["recreate", "x3"]).well();
    let tree = check(&site, "tree");
    assert_eq!(tree["verdict"], "ok", "x4 is alone in the old network: {tree}");

    site.stop();
    site.configure("[network]\nisolate = false\n");
    site.serve();
    let tree = check(&site, "tree");
    assert_eq!(tree["verdict"], "warn", "x3 and x5 kept networks of their own: {tree}");
    assert!(tree["found"].as_str().unwrap().ends_with("cut off from the others: x3, x5"), "{tree}");
    drop(rules);
}

#[test]
fn existing_container_reaches_ostler_after_daemon_restart() {
    let mut site = Site::new("[network]\nisolate = true\n");
    site.serve();
    let _rules = Rules::of(&site);
    let agent = make(&site, "kept", &[]);
    site.ostler(["stop", "kept"]).well();
    site.stop();
    site.serve();
    site.ostler(["start", "kept"]).well();
    // `start` waits for the first heartbeat, which arrives through the gateway of the workspace's own network.
    assert_eq!(agent.status(&site), "online");
}

#[test]
fn workspace_network_is_deleted_with_its_last_container() {
    let mut site = Site::new("[network]\nisolate = true\n");
    site.serve();
    let _rules = Rules::of(&site);
    let agent = make(&site, "short", &[]);
    let network = format!("ostler-{}-net", agent.id);
    let exists =
        || podman_output(["network", "ls", "--format", "{{.Name}}"]).lines().any(|name| name == network);
    assert!(exists(), "a workspace has a network of its own");
    site.ostler(["rm", "--purge", "short"]).well();
    crate::support::daemon::until("the network is deleted", || {
        site.sweep("empty_trash");
        (!exists()).then_some(())
    });
}
