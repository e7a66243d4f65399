//! Volumes in the engine.

use ostler::engine::{ContainerSpec, Engine, ErrorKind, MountSource, VolumeSpec};

use super::{AGENT, LABEL, Scene};
use crate::support::podman::podman_output;

fn volume(scene: &Scene) -> VolumeSpec {
    VolumeSpec { name: scene.name("work"), labels: scene.labels(), owner: AGENT }
}

#[tokio::test]
async fn volume_keeps_labels_and_second_create_returns_conflict() {
    let scene = Scene::new();
    let spec = volume(&scene);
    scene.engine.create_volume(&spec).await.unwrap();
    let error = scene.engine.create_volume(&spec).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict, "{error}");
    let seen = scene.engine.inspect_volume(&spec.name).await.unwrap();
    assert_eq!((seen.labels, seen.directory_missing), (spec.labels.clone(), false));
    let listed = scene.engine.list_volumes(LABEL, Some(&scene.label())).await.unwrap();
    assert_eq!(listed.iter().map(|v| (&v.name, &v.labels)).collect::<Vec<_>>(), [(&spec.name, &spec.labels)]);
    assert!(scene.engine.list_volumes(LABEL, None).await.unwrap().iter().any(|v| v.name == spec.name));
    assert_eq!(scene.engine.list_volumes(LABEL, Some("absent")).await.unwrap(), []);
}

/// podman-api: `remove()` also deletes running containers that use the volume.
#[tokio::test]
async fn volume_in_use_is_not_deleted_and_its_container_survives() {
    let scene = Scene::new();
    let mount = scene.volume("work", "/workspace").await;
    let id = scene.running(&ContainerSpec { mounts: vec![mount], ..scene.spec("user") }).await;
    let error = scene.engine.delete_volume(&scene.name("work")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict, "{error}");
    scene.engine.inspect_container(&id).await.expect("its container still exists");
    scene.stopped(&id).await;
    let error = scene.engine.delete_volume(&scene.name("work")).await.unwrap_err();
    assert_eq!(
        error.kind,
        ErrorKind::Conflict,
        "a volume of a stopped container is not reported as in use: {error}"
    );
    scene.engine.delete_container(&id).await.unwrap();
    scene.engine.delete_volume(&scene.name("work")).await.unwrap();
    scene.engine.delete_volume(&scene.name("work")).await.expect("deleting a missing volume succeeds");
}

#[tokio::test]
async fn missing_volume_directory_is_detected_and_repaired() {
    let scene = Scene::new();
    let mount = scene.volume("work", "/workspace").await;
    let MountSource::Volume(name) = mount.source.clone() else { unreachable!() };
    let directory = podman_output(["volume", "inspect", "--format", "{{.Mountpoint}}", &name]);
    std::fs::remove_dir(directory.trim()).expect("the volume's directory is removed");
    assert!(scene.engine.inspect_volume(&name).await.unwrap().directory_missing);

    scene.engine.repair_volume(&name, AGENT).await.unwrap();
    assert!(!scene.engine.inspect_volume(&name).await.unwrap().directory_missing);
    let id = scene.running(&ContainerSpec { mounts: vec![mount], ..scene.spec("user") }).await;
    assert_eq!(scene.shell(&id, "touch /workspace/f; stat -c %u:%g /workspace").await, "1000:1000");
    scene.engine.repair_volume(&name, AGENT).await.expect("repairing an existing volume succeeds");
    assert_eq!(scene.shell(&id, "ls /workspace").await, "f");
}

#[tokio::test]
async fn operations_on_missing_volume_return_absent_error() {
    let scene = Scene::new();
    let name = scene.name("never");
    for error in [
        scene.engine.inspect_volume(&name).await.map(drop).unwrap_err(),
        scene.engine.repair_volume(&name, AGENT).await.unwrap_err(),
    ] {
        assert_eq!(error.kind, ErrorKind::Absent, "{error}");
    }
}

/// podman-api panics on a name with a space, and a name with `?` changes the request.
#[tokio::test]
async fn unsafe_volume_and_network_names_are_rejected() {
    let scene = Scene::new();
    for name in ["a b", "x?force=true", "../containers/json", "a/b"] {
        let errors = [
            scene.engine.inspect_volume(name).await.map(drop).unwrap_err(),
            scene.engine.delete_volume(name).await.unwrap_err(),
            scene.engine.ensure_network(name, &scene.labels(), false).await.map(drop).unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind, ErrorKind::Other, "{error}");
        }
    }
}
