//! Files in a container's volumes.

use ostler::engine::{ContainerSpec, Engine, ErrorKind, FileToWrite};

use super::{AGENT, Scene, token_file};
use crate::support::engine_proxy::EngineProxy;

/// Podman unpacks a file that is sent to a parent directory of the mount point beneath the volume's mount, where the
/// container does not see it. ostler therefore sends files to the mount point itself.
#[tokio::test]
async fn file_written_before_first_start_is_owned_by_agent() {
    let scene = Scene::new();
    let mount = scene.volume("config", "/configs").await;
    let id = scene.created(&ContainerSpec { mounts: vec![mount], ..scene.spec("agent") }).await;
    scene.engine.write_file(&id, "/configs", &token_file("first")).await.unwrap();
    assert_eq!(scene.engine.read_file(&id, "/configs/.auth_token").await.unwrap(), b"first");

    scene.engine.start_container(&id).await.unwrap();
    let seen = scene.shell(&id, "cd /configs; cat .auth_token; stat -c ' %u:%g %a' .auth_token").await;
    assert_eq!(seen, "first 1000:1000 600");
    assert_eq!(
        scene.shell(&id, "stat -c %u:%g /configs; touch /configs/own && echo allowed").await,
        "1000:1000\nallowed"
    );
    let age = scene.shell(&id, "echo $(($(date +%s) - $(stat -c %Y /configs/.auth_token)))").await;
    assert!(age.parse::<i64>().unwrap().abs() < 300, "the file is {age} s old");
}

#[tokio::test]
async fn file_is_replaced_in_running_and_stopped_container() {
    let scene = Scene::new();
    let mount = scene.volume("config", "/configs").await;
    let id = scene.running(&ContainerSpec { mounts: vec![mount], ..scene.spec("agent") }).await;
    scene.engine.write_file(&id, "/configs", &token_file("the first and longer one")).await.unwrap();
    scene.engine.write_file(&id, "/configs", &token_file("second")).await.unwrap();
    assert_eq!(scene.shell(&id, "cat /configs/.auth_token").await, "second");
    assert_eq!(scene.engine.read_file(&id, "/configs/.auth_token").await.unwrap(), b"second");

    scene.stopped(&id).await;
    scene.engine.write_file(&id, "/configs", &token_file("third")).await.unwrap();
    assert_eq!(scene.engine.read_file(&id, "/configs/.auth_token").await.unwrap(), b"third");
    scene.engine.start_container(&id).await.unwrap();
    assert_eq!(scene.shell(&id, "cat /configs/.auth_token").await, "third");
}

#[tokio::test]
async fn read_file_rejects_missing_large_and_directory_paths() {
    let scene = Scene::new();
    let id = scene.running(&scene.spec("files")).await;
    let error = scene.engine.read_file(&id, "/tmp/none").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Absent, "{error}");

    scene.shell(&id, "dd if=/dev/zero of=/tmp/edge bs=1024 count=1024 2>/dev/null").await;
    scene.shell(&id, "dd if=/dev/zero of=/tmp/large bs=1024 count=4096 2>/dev/null").await;
    assert_eq!(scene.engine.read_file(&id, "/tmp/edge").await.unwrap().len(), 1 << 20);
    for refused in ["/tmp/large", "/tmp"] {
        let error = scene.engine.read_file(&id, refused).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Conflict, "{error}");
    }
}

#[tokio::test]
async fn write_file_rejects_names_that_leave_the_volume() {
    let scene = Scene::new();
    let mount = scene.volume("config", "/configs").await;
    let id = scene.created(&ContainerSpec { mounts: vec![mount], ..scene.spec("agent") }).await;
    for name in ["../escaped", "sub/file", ""] {
        let file = FileToWrite { name: name.into(), content: Vec::new(), mode: 0o600, owner: AGENT };
        let error = scene.engine.write_file(&id, "/configs", &file).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Other, "{error}");
    }
}

#[tokio::test]
async fn matching_token_is_compared_without_archive_request() {
    let proxy = EngineProxy::start();
    let scene = Scene::behind(&proxy);
    let mount = scene.volume("config", "/configs").await;
    let id = scene.created(&ContainerSpec { mounts: vec![mount], ..scene.spec("agent") }).await;
    let path = "/configs/.auth_token";
    let holds = async |content: &str| scene.engine.file_holds(&id, path, content.as_bytes()).await;
    let archives = || proxy.seen().iter().filter(|seen| seen.path.ends_with("/archive")).count();
    scene.engine.write_file(&id, "/configs", &token_file("a token")).await.unwrap();
    let written = archives();
    assert!(holds("a token").await.unwrap());
    assert_eq!(archives(), written, "a request was sent although the volume can be read directly");

    // If the content differs, the service is asked, because the directory that is visible here could belong to another
    // storage.
    for other in ["another", "a tok", "a token and more", ""] {
        assert!(!holds(other).await.unwrap(), "{other:?}");
    }
    assert_eq!(archives(), written + 4);
}

#[tokio::test]
async fn token_comparison_returns_service_result_for_irregular_files() {
    let scene = Scene::new();
    let mount = scene.volume("config", "/configs").await;
    let id = scene.running(&ContainerSpec { mounts: vec![mount], ..scene.spec("agent") }).await;
    let kind = async || {
        scene.engine.file_holds(&id, "/configs/.auth_token", b"a token").await.map_err(|error| error.kind)
    };
    assert_eq!(kind().await, Err(ErrorKind::Absent));
    scene.shell(&id, "cd /configs; echo -n 'a token' >real; ln -s real .auth_token").await;
    assert_eq!(
        kind().await,
        scene
            .engine
            .read_file(&id, "/configs/.auth_token")
            .await
            .map(|read| read == b"a token")
            .map_err(|error| error.kind)
    );
    for blocked in ["mkfifo", "mkdir"] {
        scene.shell(&id, &format!("cd /configs; rm .auth_token; {blocked} .auth_token")).await;
        assert_eq!(kind().await, Err(ErrorKind::Conflict), "{blocked}");
    }
    // A file outside a volume cannot be read directly.
    scene.shell(&id, "echo -n 'a token' >/tmp/file").await;
    assert!(scene.engine.file_holds(&id, "/tmp/file", b"a token").await.unwrap());
}
