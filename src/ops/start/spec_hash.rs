//! The hash of the settings with which a container is created; it shows whether a container has drifted.

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::{
    domain::{
        ids::WorkspaceId,
        runtime::{Runtime, Tier},
        spec::Spec,
        workspace::Workspace,
    },
    ops::{Inner, Settings},
};

/// Hash of all settings with which a container is created. If the hash of a container differs from its row's, the
/// container has drifted. It covers the platform URL, the platform port and the kind of network, which are fixed when a
/// container is created. It does not cover the configuration, which is in a volume and is written by a start.
fn spec_hash(row: &Workspace, runtime: &Runtime, settings: &Settings) -> String {
    let spec = Spec { config: None, ..row.spec.clone() };
    hash_of(&MadeFrom { spec: &spec, tier: row.tier, parent: row.parent }, runtime, settings)
}

/// Whether `hash` matches the row's current settings. Hashes of older versions also cover the configuration, so both
/// forms are compared.
pub(in crate::ops) fn is_made_from(
    hash: &str,
    row: &Workspace,
    runtime: &Runtime,
    settings: &Settings,
) -> bool {
    let with_config = MadeFrom { spec: &row.spec, tier: row.tier, parent: row.parent };
    hash == spec_hash(row, runtime, settings) || hash == hash_of(&with_config, runtime, settings)
}

/// The fields of a workspace that are fixed when its container is created.
#[derive(Clone, Copy, Debug)]
pub(in crate::ops) struct MadeFrom<'a> {
    pub(in crate::ops) spec: &'a Spec,
    pub(in crate::ops) tier: Tier,
    pub(in crate::ops) parent: Option<WorkspaceId>,
}

pub(in crate::ops) fn hash_of(made_from: &MadeFrom<'_>, runtime: &Runtime, settings: &Settings) -> String {
    let &MadeFrom { spec, tier, parent } = made_from;
    let made_from = json!({
        "spec": spec,
        "tier": tier,
        "user": runtime.user,
        "limits": runtime.limits(tier),
        "env": runtime.env,
        "stop_grace_ms": u64::try_from(runtime.stop_grace.as_millis()).unwrap_or(u64::MAX),
        "privileged": runtime.privileged_tiers.contains(&tier),
        "parent": parent,
        "platform_url": settings.platform_url,
        "platform_port": settings.platform_port,
        "isolate": settings.isolate,
    });
    let digest = Sha256::digest(made_from.to_string());
    digest.iter().take(12).fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

impl Inner {
    pub(super) fn spec_hash(&self, row: &Workspace, runtime: &Runtime) -> String {
        spec_hash(row, runtime, &self.settings())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::domain::operation::Revision;
    use crate::domain::{
        ids::{Incarnation, InstanceId},
        naming::WorkspaceName,
        status::Status,
        time::Timestamp,
        workspace::{Kind, Policy},
    };

    #[test]
    fn container_spec_hash_is_accepted_with_or_without_config() {
        let runtime = Runtime::plain();
        let settings = Settings {
            instance: InstanceId(uuid::Uuid::nil()),
            runtimes: BTreeMap::new(),
            ports: crate::store::PortRange { first: 1, last: 2 },
            platform_port: 1,
            platform_url: None,
            isolate: false,
            log_bytes: 0,
            trash_retention: std::time::Duration::ZERO,
            restart: crate::domain::budget::RestartBudget::default(),
            limits: crate::ops::Limits {
                absence_grace: std::time::Duration::ZERO,
                unknown_grace: std::time::Duration::ZERO,
                removed_retention: std::time::Duration::ZERO,
                event_retention: std::time::Duration::ZERO,
            },
            access: crate::ops::Access {
                root_siblings: true,
                wakes_per_hour: 1,
                external: crate::domain::address::Allow::default(),
            },
            concurrent_starts: 1,
        };
        let row = Workspace {
            id: WorkspaceId(uuid::Uuid::nil()),
            name: WorkspaceName::stored("one".into()),
            role: None,
            kind: Kind::Container,
            runtime: "plain".into(),
            tier: Tier::default(),
            parent: None,
            spec: Spec { image: "image".into(), config: Some("first".into()), ..Spec::default() },
            status: Status::Online,
            status_detail: None,
            status_since: Timestamp(0),
            incarnation: Incarnation(1),
            container: None,
            container_serial: 1,
            host_port: None,
            container_spec_hash: None,
            config_pending: false,
            has_work_volume: true,
            url: None,
            policy: Policy::default(),
            revision: Revision::default(),
            paused_with: None,
            removed_with: None,
            restart_due_at: None,
            created_at: Timestamp(0),
            removed_at: None,
        };
        let now = spec_hash(&row, &runtime, &settings);
        let with_config = MadeFrom { spec: &row.spec, tier: row.tier, parent: row.parent };
        let of_older_version = hash_of(&with_config, &runtime, &settings);
        assert_ne!(now, of_older_version);
        let is_made_from = |hash: &str, row: &Workspace| is_made_from(hash, row, &runtime, &settings);
        assert!(
            is_made_from(&now, &row) && is_made_from(&of_older_version, &row),
            "both hashes must match the row"
        );

        let mut other = row.clone();
        other.spec.config = Some("second".into());
        assert!(is_made_from(&now, &other), "a changed configuration must not count as drift");
        let mut other = row.clone();
        other.spec.env.insert("A".into(), "1".into());
        assert!(!is_made_from(&now, &other) && !is_made_from(&of_older_version, &other));
    }
}
