//! Networks.

use std::{collections::BTreeMap, net::IpAddr};

use hyper::Method;
use podman_api::opts::NetworkCreateOpts;
use serde::Deserialize;
use serde_json::json;

use super::{
    super::{EngineResult, ErrorKind, ListedNetwork, NetworkInfo},
    client::{ACKNOWLEDGEMENT_MAX_BYTES, Podman},
    errors::tolerate,
    names::plain,
    raw::escape,
};

/// A network in Podman's listing.
#[derive(Deserialize)]
struct SeenNetwork {
    name: String,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    subnets: Option<Vec<SeenSubnet>>,
}

#[derive(Deserialize)]
struct SeenSubnet {
    #[serde(default)]
    gateway: Option<IpAddr>,
    subnet: String,
}

impl SeenNetwork {
    fn listed(self) -> ListedNetwork {
        let subnets = self.subnets.unwrap_or_default();
        let info = NetworkInfo {
            gateway: subnets.iter().find_map(|seen| seen.gateway),
            subnet: subnets.iter().find_map(|seen| seen.subnet.parse().ok()),
        };
        ListedNetwork { name: self.name, labels: self.labels.unwrap_or_default(), info }
    }
}

pub(super) async fn ensure(
    podman: &Podman,
    name: &str,
    labels: &BTreeMap<String, String>,
    isolate: bool,
) -> EngineResult<NetworkInfo> {
    let call = format!("create network {name}");
    match gateway(podman, &call, name).await {
        Err(error) if error.kind == ErrorKind::Absent => {}
        other => return other,
    }
    // Unlike the command line, the API leaves DNS disabled by default, and aliases do not work without DNS.
    let options = NetworkCreateOpts::builder().name(name).labels(labels).dns_enabled(true);
    let options = if isolate { options.options([("isolate", "true")]) } else { options };
    let created = podman.api.networks().create(&options.build()).await;
    match created.map_err(podman.failed(call.as_str())) {
        // On a conflict, another caller created the network first.
        Err(error) if error.kind != ErrorKind::Conflict => Err(error),
        Ok(_) | Err(_) => gateway(podman, &call, name).await,
    }
}

pub(super) async fn list(podman: &Podman, key: &str, value: &str) -> EngineResult<Vec<ListedNetwork>> {
    let call = format!("list networks with {key}={value}");
    let filters = json!({ "label": [format!("{key}={value}")] });
    let target = format!("/libpod/networks/json?filters={}", escape(&filters.to_string()));
    let found: Vec<SeenNetwork> =
        podman.raw.json(Method::GET, &target, None).await.map_err(podman.failed(call))?;
    Ok(found.into_iter().map(SeenNetwork::listed).collect())
}

/// Never by force: that would delete the containers which belong to it.
pub(super) async fn delete(podman: &Podman, name: &str) -> EngineResult<()> {
    let call = format!("delete network {name}");
    let target = format!("/libpod/networks/{}", plain(&call, name)?);
    let deleted = podman.raw.send(Method::DELETE, &target, None, ACKNOWLEDGEMENT_MAX_BYTES).await;
    tolerate(deleted.map(drop), &[404]).map_err(podman.failed(call))
}

async fn gateway(podman: &Podman, call: &str, name: &str) -> EngineResult<NetworkInfo> {
    let network = podman.api.networks().get(plain(call, name)?).inspect().await;
    let subnets = network.map_err(podman.failed(call))?.subnets.unwrap_or_default();
    Ok(NetworkInfo {
        gateway: subnets.iter().find_map(|seen| seen.gateway.as_ref()?.parse().ok()),
        subnet: subnets.iter().find_map(|seen| seen.subnet.as_ref()?.parse().ok()),
    })
}
