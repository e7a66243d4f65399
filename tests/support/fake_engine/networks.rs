//! What the calls for networks do to the fake engine.

use std::collections::BTreeMap;

use ostler::engine::{EngineResult, ListedNetwork, NetworkInfo};

use super::state::{State, conflict, labelled};

impl State {
    pub(super) fn ensure_network(&mut self, name: String, labels: BTreeMap<String, String>) -> NetworkInfo {
        // The gateway is derived from the number of networks, of which no test creates 65 536. After a deletion, a
        // new network may get the gateway of an existing one.
        let [third, fourth] = u16::try_from(self.networks.len()).unwrap_or(u16::MAX).to_be_bytes();
        let made = ListedNetwork {
            name: name.clone(),
            labels,
            info: NetworkInfo {
                gateway: Some([10, 89_u8.saturating_add(third), fourth, 1].into()),
                subnet: None,
            },
        };
        self.networks.entry(name).or_insert(made).info
    }

    pub(super) fn list_networks(&self, key: &str, value: &str) -> Vec<ListedNetwork> {
        let ours = self.networks.values().filter(|one| labelled(&one.labels, key, Some(value)));
        ours.cloned().collect()
    }

    pub(super) fn delete_network(&mut self, name: &str) -> EngineResult<()> {
        if self.containers.values().any(|container| container.spec.network == name) {
            return Err(conflict("delete network", "network is being used"));
        }
        self.networks.remove(name);
        Ok(())
    }
}
