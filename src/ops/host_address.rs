//! By which address workspaces reach this host.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, UdpSocket},
};

use super::{Inner, OpError, OpResult, Ops};
use crate::{
    crash_point,
    domain::naming::{LABEL_INSTANCE, instance_name},
    engine::{EngineError, Trouble},
};

/// The name under which containers of a rootless Podman find their host: Podman writes it anew at every start.
const ROOTLESS_HOST: &str = "host.containers.internal";

/// An address to listen on for workspaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostAddress {
    /// The address.
    pub address: IpAddr,
    /// Whether other machines may see it too.
    pub lan_sees_it: bool,
}

impl Ops {
    /// The address to listen on for workspaces: their network's gateway; without root, where that is inside a
    /// namespace of its own, the address of this host that they are given.
    ///
    /// # Errors
    /// When the engine gives no answer, or there is no such address.
    pub async fn host_address(&self) -> OpResult<HostAddress> {
        let gateway = self.0.gateway().await?;
        if self.0.engine.describe().await?.rootless {
            let address = own_address().map_err(|error| {
                OpError::Impossible(format!("this host has no address that workspaces could reach: {error}"))
            })?;
            return Ok(HostAddress { address, lan_sees_it: !address.is_loopback() });
        }
        let address = gateway.ok_or_else(|| {
            let network = instance_name(self.0.settings.instance);
            EngineError::new(Trouble::Other, "look for the gateway", format!("network {network} has none"))
        })?;
        Ok(HostAddress { address, lan_sees_it: false })
    }
}

impl Inner {
    /// The gateway of the workspaces' network, which is made where it is missing.
    pub(super) async fn gateway(&self) -> OpResult<Option<IpAddr>> {
        let network = instance_name(self.settings.instance);
        let labels = BTreeMap::from([(LABEL_INSTANCE.to_owned(), self.settings.instance.to_string())]);
        crash_point::before("reach: make the network");
        let made = self.engine.ensure_network(&network, &labels, self.settings.isolate).await?;
        crash_point::after("reach: make the network");
        Ok(made.gateway)
    }

    /// The url that containers are told.
    pub(super) async fn url_for_containers(&self) -> OpResult<String> {
        let gateway = self.gateway().await?;
        if let Some(url) = &self.settings.platform_url {
            return Ok(url.clone());
        }
        let rootless = self.engine.describe().await?.rootless;
        let host = match gateway.filter(|_| !rootless) {
            Some(address) => address.to_string(),
            None => ROOTLESS_HOST.to_owned(),
        };
        Ok(format!("http://{host}:{}", self.settings.platform_port))
    }
}

/// The address from which this host would send to the rest of the world. Nothing is sent: connecting a datagram
/// socket only asks the routing table.
fn own_address() -> std::io::Result<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
    Ok(socket.local_addr()?.ip())
}
