//! Container specs (§8) as received by the engine.

use ostler::{
    domain::runtime::User,
    engine::{ContainerSpec, MountSource},
};
use serde_json::{Value, json};

use crate::support::{
    fake_engine::exposed,
    registry::{IMAGE, Registry},
    wire::Ask,
};

async fn made(registry: &Registry, name: &str, more: Value) -> (String, ContainerSpec) {
    let one = registry.begun(name, more).await;
    let container = registry.row(&one.id).await.container.unwrap();
    let spec = registry.world.state().containers[&container].spec.clone();
    (one.id, spec)
}

fn mounts(spec: &ContainerSpec) -> Vec<(&str, &str, bool)> {
    let of = |source: &MountSource| match source {
        MountSource::Volume(_) => "volume",
        MountSource::HostDirectory(_) => "directory",
        MountSource::Tmpfs => "tmpfs",
    };
    let mut mounts: Vec<_> =
        spec.mounts.iter().map(|mount| (mount.target.as_str(), of(&mount.source), mount.read_only)).collect();
    mounts.sort_unstable();
    mounts
}

#[tokio::test(flavor = "multi_thread")]
async fn container_gets_the_specified_port_volumes_user_and_env_only() {
    let registry = Registry::start().await;
    let parent = registry.begun("parent", json!({})).await;
    let more = json!({ "parent_id": parent.id, "env": { "MINE": "1" } });
    let (id, spec) = made(&registry, "one", more).await;
    let row = registry.row(&id).await;
    assert_eq!(spec.publish, Some((8000, row.host_port.unwrap())));
    assert_eq!(mounts(&spec), [("/configs", "volume", false), ("/workspace", "volume", false)]);
    assert_eq!(spec.user, User { uid: 1000, gid: 1000 });
    let env = exposed(&spec.env);
    let keys: Vec<_> = env.keys().map(String::as_str).collect();
    let options = ["MINE", "PARENT_ID", "PLATFORM_URL", "TIER", "WORKSPACE_CONFIG_PATH", "WORKSPACE_ID"];
    assert_eq!(keys, options);
    assert_eq!((env["WORKSPACE_ID"].as_str(), env["PARENT_ID"].as_str()), (id.as_str(), parent.id.as_str()));
    assert_eq!((env["TIER"].as_str(), env["WORKSPACE_CONFIG_PATH"].as_str()), ("2", "/configs"));
    assert_eq!(env["PLATFORM_URL"], format!("http://10.89.0.1:{}", registry.address.port()));
    assert!(!spec.privileged);
}

#[tokio::test(flavor = "multi_thread")]
async fn tier_determines_limits_and_mounts_as_in_the_protocol() {
    let registry = Registry::start().await;
    for (tier, mib, cpus) in [(1, 512, 1.0), (2, 512, 1.0), (3, 2048, 2.0), (4, 4096, 4.0)] {
        let (_, spec) = made(&registry, &format!("tier {tier}"), json!({ "tier": tier })).await;
        assert_eq!(spec.limits.memory_bytes, mib << 20, "tier {tier}");
        assert!((spec.limits.cpus - cpus).abs() < f64::EPSILON, "tier {tier}");
        assert!(!spec.privileged, "tier {tier}");
        assert_eq!(spec.read_only_root, tier == 1);
        let options = if tier == 1 { ("/tmp", "tmpfs", false) } else { ("/workspace", "volume", false) };
        assert_eq!(mounts(&spec), [("/configs", "volume", false), options], "tier {tier}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn host_directory_replaces_the_work_volume() {
    let registry = Registry::start().await;
    for (name, access, read_only) in [("rw", "read_write", false), ("ro", "read_only", true)] {
        let more = json!({ "workspace_dir": "/srv/work", "workspace_access": access });
        let (_, spec) = made(&registry, name, more).await;
        assert_eq!(mounts(&spec), [("/configs", "volume", false), ("/workspace", "directory", read_only)]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn token_file_contains_the_token_without_a_newline() {
    let registry = Registry::start().await;
    let (id, spec) = made(&registry, "one", json!({ "config": "name: one\n" })).await;
    let state = registry.world.state();
    let MountSource::Volume(volume) =
        &spec.mounts.iter().find(|mount| mount.target == "/configs").unwrap().source
    else {
        panic!("a volume")
    };
    let files = &state.volumes[volume].files;
    let token = &files[".auth_token"];
    assert_eq!(token.len(), 43, "the token file has no newline");
    assert!(token.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte)));
    assert_eq!(files["config.yaml"], b"name: one\n", "{id}");
}

#[tokio::test(flavor = "multi_thread")]
async fn workspace_shows_limits_and_spec_without_env_values() {
    let registry = Registry::start().await;
    let ask = |name: &str| {
        Ask::post("/workspaces").json(json!({
            "name": name, "image": IMAGE, "command": ["serve", "--all"], "config": "model: small",
            "env": { "API_KEY": "of-the-operator", "LEVEL": "debug" },
        }))
    };
    let all_hold = registry.order(ask("one")).await.json();
    assert!(all_hold.get("notes").is_none(), "{all_hold}");
    registry.world.state().ignored_limits = vec!["memory", "cpu"];
    let made = registry.order(ask("two")).await.json();
    let note = "limits on memory and cpu are not enforced: Podman ignores them on this host";
    assert_eq!(made["notes"], json!([note]));
    let view = registry.order(Ask::get("/workspaces/two")).await.json();
    assert_eq!(view["limits_note"], note);
    assert_eq!((&view["command"], &view["config_bytes"]), (&json!(["serve", "--all"]), &json!(12)));
    assert_eq!(view["env_names"], json!(["API_KEY", "LEVEL"]));
    assert!(!view.to_string().contains("of-the-operator"), "a value may be a secret: {view}");
}
