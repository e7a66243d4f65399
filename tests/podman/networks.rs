//! Networks in the engine.

use std::net::IpAddr;

use ostler::engine::{ContainerSpec, Engine};

use super::{Scene, eventually};
use crate::support::podman::podman_output;

/// podman-api: without `dns_enabled` a network has no DNS, so aliases do not resolve.
#[tokio::test]
async fn containers_resolve_each_other_by_network_alias() {
    let scene = Scene::new();
    let network = scene.name("net");
    let info = scene.engine.ensure_network(&network, &scene.labels(), false).await.unwrap();
    let again = scene.engine.ensure_network(&network, &scene.labels(), false).await.unwrap();
    assert_eq!(info, again);
    assert!(matches!(info.gateway, Some(IpAddr::V4(_))), "{info:?}");

    let member = |what: &str| ContainerSpec { network: network.clone(), ..scene.spec(what) };
    let aliases = vec!["first-alias".to_owned()];
    scene.running(&ContainerSpec { aliases, ..member("first") }).await;
    let second = scene.running(&member("second")).await;
    // Podman does not wait until the DNS resolver that it starts for a network is ready.
    eventually("the alias resolves", || async {
        let found = scene.shell(&second, "nslookup first-alias. | tail -n +3").await;
        found.contains("Address").then_some(())
    })
    .await;
    let gateway = scene.shell(&second, "ip route | sed -n 's/default via \\([^ ]*\\).*/\\1/p'").await;
    assert_eq!(Some(gateway.parse().unwrap()), info.gateway);
}

#[tokio::test]
async fn network_is_isolated_only_when_requested() {
    let scene = Scene::new();
    for (what, isolate) in [("closed", true), ("open", false)] {
        let network = scene.name(what);
        scene.engine.ensure_network(&network, &scene.labels(), isolate).await.unwrap();
        let options = podman_output(["network", "inspect", &network, "--format", "{{json .Options}}"]);
        assert_eq!(options.contains(r#""isolate":"true""#), isolate, "{what}: {options}");
    }
    // A container can start in an isolated network.
    scene.running(&ContainerSpec { network: scene.name("closed"), ..scene.spec("inside") }).await;
}

#[tokio::test]
async fn concurrent_ensure_network_calls_return_the_same_network() {
    let scene = Scene::new();
    let (network, labels) = (scene.name("net"), scene.labels());
    let make = || scene.engine.ensure_network(&network, &labels, false);
    let (first, second, third) = tokio::join!(make(), make(), make());
    assert_eq!(first.clone().unwrap(), second.unwrap());
    assert_eq!(first.unwrap(), third.unwrap());
}
