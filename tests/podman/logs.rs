//! A container's output.

use futures_util::StreamExt;
use ostler::engine::{Engine, LogRequest, LogStream, Trouble};

use super::{Scene, eventually};

async fn read(mut log: LogStream) -> [String; 2] {
    let mut read = [String::new(), String::new()];
    while let Some(chunk) = log.next().await {
        let chunk = chunk.expect("the log is read");
        read[usize::from(chunk.stderr)] += std::str::from_utf8(&chunk.bytes).expect("the log is text");
    }
    read
}

const WHOLE: LogRequest = LogRequest { tail: None, follow: false };

#[tokio::test]
async fn both_streams_are_read_and_a_follower_ends_with_the_container() {
    let scene = Scene::new();
    let talk = "echo one; echo two >&2; sleep 0.3; echo three";
    let id = scene.running(&scene.script("talker", talk)).await;
    let followed = read(scene.engine.logs(&id, LogRequest { tail: None, follow: true }).await.unwrap()).await;
    assert_eq!(followed, ["one\nthree\n", "two\n"]);
    let kept = eventually("the last line is written", || async {
        let kept = read(scene.engine.logs(&id, WHOLE).await.unwrap()).await;
        kept[0].contains("three").then_some(kept)
    })
    .await;
    assert_eq!(kept, followed);
    let tail = read(scene.engine.logs(&id, LogRequest { tail: Some(1), follow: false }).await.unwrap()).await;
    assert_eq!(tail, ["three\n", ""]);
}

#[tokio::test]
async fn a_container_that_never_ran_has_said_nothing() {
    let scene = Scene::new();
    let id = scene.created(&scene.spec("mute")).await;
    assert_eq!(read(scene.engine.logs(&id, WHOLE).await.unwrap()).await, ["", ""]);
}

/// podman-api: the fault of a stream comes nested, and only when the stream is polled.
#[tokio::test]
async fn the_log_of_no_container_is_absent() {
    let scene = Scene::new();
    let id = scene.created(&scene.spec("gone")).await;
    scene.engine.delete_container(&id).await.unwrap();
    for follow in [false, true] {
        let error = scene.engine.logs(&id, LogRequest { tail: None, follow }).await.map(drop).unwrap_err();
        assert_eq!(error.trouble, Trouble::Absent, "{error}");
    }
}

#[tokio::test]
async fn a_container_that_goes_before_its_log_is_read_is_absent_too() {
    let scene = Scene::new();
    let id = scene.created(&scene.spec("going")).await;
    let mut log = scene.engine.logs(&id, WHOLE).await.unwrap();
    scene.engine.delete_container(&id).await.unwrap();
    let error = log.next().await.expect("an error").unwrap_err();
    assert_eq!(error.trouble, Trouble::Absent, "{error}");
}
