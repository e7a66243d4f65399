//! The settings with which a container is created, from its row, its runtime and its network.

use std::collections::BTreeMap;

use super::files::CONFIG_DIRECTORY;
use crate::{
    domain::{
        ids::WorkspaceId,
        naming::{
            AGENT_PORT, LABEL_INSTANCE, LABEL_SPEC, LABEL_WORKSPACE, VolumeKind, container_name, volume_name,
        },
        runtime::{Runtime, Tier},
        spec::{Access, LabelledSpec},
        workspace::Workspace,
    },
    engine::{ContainerSpec, Environment, Mount, MountSource},
    ops::{Inner, OpError, OpResult},
};

impl Inner {
    pub(super) fn labels(&self, id: WorkspaceId) -> BTreeMap<String, String> {
        BTreeMap::from([
            (LABEL_INSTANCE.to_owned(), self.settings().instance.to_string()),
            (LABEL_WORKSPACE.to_owned(), id.to_string()),
        ])
    }

    pub(super) async fn container_spec(
        &self,
        row: &Workspace,
        runtime: &Runtime,
        serial: u32,
        port: u16,
    ) -> OpResult<ContainerSpec> {
        let network = self.network_of(row.id).await?;
        let mut labels = self.labels(row.id);
        let labelled = serde_json::to_string(&LabelledSpec::new(&row.name, &row.spec))
            .map_err(|error| OpError::Invalid(error.to_string()))?;
        labels.insert(LABEL_SPEC.to_owned(), labelled);
        Ok(ContainerSpec {
            name: container_name(row.id, serial),
            image: row.spec.image.clone(),
            command: row.spec.command.clone(),
            labels,
            env: environment(row, runtime, network.platform_url),
            user: runtime.user,
            mounts: mounts(row),
            publish: Some((AGENT_PORT, port)),
            network: network.name,
            aliases: vec![format!("ws-{}", row.id)],
            hostname: format!("ws-{}", &row.id.to_string()[..8]),
            limits: runtime.limits(row.spec.tier),
            read_only_root: row.spec.tier == Tier::SANDBOX,
            privileged: runtime.privileged_tiers.contains(&row.spec.tier),
            stop_grace: runtime.stop_grace,
            log_bytes: self.settings().log_bytes,
        })
    }
}

fn environment(row: &Workspace, runtime: &Runtime, platform_url: String) -> Environment {
    let mut env = runtime.env.clone();
    env.extend(row.spec.env.clone());
    // Last, so that they override the row's environment (`OWN_VARIABLES` of the spec): a workspace's environment must
    // not be able to give its container the id of another workspace.
    env.insert("WORKSPACE_ID".into(), row.id.to_string());
    env.insert("WORKSPACE_CONFIG_PATH".into(), CONFIG_DIRECTORY.into());
    env.insert("PLATFORM_URL".into(), platform_url);
    env.insert("TIER".into(), row.spec.tier.number().to_string());
    env.insert("PARENT_ID".into(), row.spec.parent.map(|parent| parent.to_string()).unwrap_or_default());
    Environment(env)
}

fn mounts(row: &Workspace) -> Vec<Mount> {
    let volume = |kind, target: &str| Mount {
        source: MountSource::Volume(volume_name(row.id, kind)),
        target: target.to_owned(),
        read_only: false,
    };
    let mut mounts = vec![volume(VolumeKind::Config, CONFIG_DIRECTORY)];
    if row.spec.tier == Tier::SANDBOX {
        mounts.push(Mount { source: MountSource::Tmpfs, target: "/tmp".into(), read_only: false });
    } else if let Some(directory) = &row.spec.workspace_dir {
        mounts.push(Mount {
            source: MountSource::HostDirectory(directory.clone()),
            target: "/workspace".into(),
            read_only: row.spec.workspace_access == Access::ReadOnly,
        });
    } else {
        mounts.push(volume(VolumeKind::Work, "/workspace"));
    }
    mounts
}
