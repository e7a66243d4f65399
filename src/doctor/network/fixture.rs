//! A network for the tests of its checks.

use std::sync::Arc;

use super::description::Network;
use crate::domain::time::Timestamp;

pub(super) const ADVERTISED: &str = "http://10.89.0.1:7717";

pub(super) fn network(listen: &[&str]) -> Network {
    Network {
        listen: listen.iter().map(|address| address.parse().unwrap()).collect(),
        port: 7717,
        advertised_url: ADVERTISED.into(),
        is_url_configured: false,
        isolate: false,
        packets: Arc::new(|| Ok(())),
        since: Timestamp(0),
        bound: Arc::new(|| unreachable!("tests pass the addresses directly")),
        reach: Arc::new(|| unreachable!("tests pass the addresses directly")),
    }
}
