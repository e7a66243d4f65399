//! The hash of the settings with which a container is created; it shows whether a container has drifted.

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::{
    domain::{runtime::Runtime, spec::WorkspaceSpec},
    ops::{Inner, Settings},
};

/// Hash of all settings with which a container is created. If the hash of a container differs from its row's, the
/// container has drifted. It covers the platform URL, the platform port and the kind of network, which are fixed when a
/// container is created. It does not cover the configuration, which is in a volume and is written by a start.
fn spec_hash(spec: &WorkspaceSpec, runtime: &Runtime, settings: &Settings) -> String {
    hash_of(&WorkspaceSpec { config: None, ..spec.clone() }, runtime, settings)
}

/// Whether `hash` matches a spec. Hashes of older versions also cover the configuration, so both forms are compared.
pub(in crate::ops) fn is_made_from(
    hash: &str,
    spec: &WorkspaceSpec,
    runtime: &Runtime,
    settings: &Settings,
) -> bool {
    hash == spec_hash(spec, runtime, settings) || hash == hash_of(spec, runtime, settings)
}

/// Hash of a spec, including its configuration, and of everything else that is fixed when a container is created.
pub(in crate::ops) fn hash_of(spec: &WorkspaceSpec, runtime: &Runtime, settings: &Settings) -> String {
    let WorkspaceSpec { tier, parent, .. } = *spec;
    let made_from = json!({
        // The fields of `Part::Container`.
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
    pub(super) fn spec_hash(&self, spec: &WorkspaceSpec, runtime: &Runtime) -> String {
        spec_hash(spec, runtime, &self.settings())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::domain::{
        ids::InstanceId,
        runtime::User,
        spec::{Effect, tests::changes},
    };

    fn settings() -> Settings {
        Settings {
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
        }
    }

    #[test]
    fn container_spec_hash_is_accepted_with_or_without_config() {
        let (runtime, settings) = (Runtime::plain(), settings());
        let spec =
            WorkspaceSpec { image: "image".into(), config: Some("first".into()), ..WorkspaceSpec::default() };
        let now = spec_hash(&spec, &runtime, &settings);
        let of_older_version = hash_of(&spec, &runtime, &settings);
        assert_ne!(now, of_older_version);
        let is_made_from = |hash: &str, spec: &WorkspaceSpec| is_made_from(hash, spec, &runtime, &settings);
        assert!(
            is_made_from(&now, &spec) && is_made_from(&of_older_version, &spec),
            "both hashes must match the row"
        );

        let other = WorkspaceSpec { config: Some("second".into()), ..spec.clone() };
        assert!(is_made_from(&now, &other), "a changed configuration must not count as drift");
        let mut other = spec.clone();
        other.env.insert("A".into(), "1".into());
        assert!(!is_made_from(&now, &other) && !is_made_from(&of_older_version, &other));
    }

    #[test]
    fn hash_of_an_existing_container_stays_the_same() {
        let parent = Some(crate::domain::ids::WorkspaceId(uuid::Uuid::from_u128(1)));
        let env = [("KEY".to_owned(), "value".to_owned())].into();
        let spec = WorkspaceSpec { image: "image".into(), env, parent, ..WorkspaceSpec::default() };
        assert_eq!(spec_hash(&spec, &Runtime::plain(), &settings()), "10b815e4b374b560e9c7182f");
    }

    #[test]
    fn hash_covers_everything_that_is_fixed_when_a_container_is_created() {
        let (plain, settings) = (Runtime::plain(), settings());
        let hash =
            |spec: &WorkspaceSpec, runtime: &Runtime, settings: &Settings| spec_hash(spec, runtime, settings);
        let spec = WorkspaceSpec::default();
        let before = hash(&spec, &plain, &settings);
        for (field, effect, changed) in changes() {
            // The name of a runtime stands for the runtime's settings.
            let other = Runtime { user: User { uid: 1, gid: 1 }, ..Runtime::plain() };
            let runtime = if field == "runtime" { &other } else { &plain };
            assert_eq!(hash(&changed, runtime, &settings) != before, effect == Effect::Recreate, "{field}");
        }
        for other in [
            Settings { platform_url: Some("http://192.0.2.1:1".into()), ..settings.clone() },
            Settings { platform_port: 2, ..settings.clone() },
            Settings { isolate: true, ..settings.clone() },
        ] {
            assert_ne!(hash(&spec, &plain, &other), before, "{other:?}");
        }
    }
}
