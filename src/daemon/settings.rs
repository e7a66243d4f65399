//! The settings of the operations, from the configuration.

use crate::{
    config::Config,
    domain::{address::Allow, ids::InstanceId},
    ops::{Access, Limits, Settings},
};

pub(super) fn settings_of(config: &Config, instance: InstanceId) -> Settings {
    Settings {
        instance,
        runtimes: config.runtimes.clone(),
        ports: config.ports,
        platform_port: config.network.port,
        platform_url: config.network.platform_url.clone(),
        isolate: config.network.isolate,
        log_bytes: config.engine.log_size,
        trash_retention: config.sweep.trash_retention,
        restart: config.restart,
        limits: Limits {
            absence_grace: config.sweep.absence_grace,
            unknown_grace: config.sweep.unknown_grace,
            removed_retention: config.sweep.trash_retention,
            event_retention: config.sweep.event_retention,
        },
        access: Access {
            root_siblings: config.access.root_siblings,
            wakes_per_hour: config.access.wakes_per_hour,
            external: Allow {
                private: config.external.allow_private,
                loopback: config.external.allow_loopback,
            },
        },
        concurrent_starts: config.engine.concurrent_starts(),
    }
}
