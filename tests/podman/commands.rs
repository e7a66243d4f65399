//! Commands run inside containers.

use std::collections::BTreeMap;

use ostler::engine::{Engine, ErrorKind, ExecId, ExecRequest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Ran, Scene, request, unframed};

#[tokio::test]
async fn exec_returns_output_and_exit_code() {
    let scene = Scene::new();
    let id = scene.running(&scene.spec("host")).await;
    let ran = scene.run(&id, &["sh", "-c", "echo out; echo err >&2; exit 3"]).await;
    assert_eq!(ran, Ran { code: 3, out: "out\n".into(), err: "err\n".into() });
}

#[tokio::test]
async fn exec_passes_stdin_until_end_of_input() {
    let scene = Scene::new();
    let id = scene.running(&scene.spec("host")).await;
    let exec_request = ExecRequest { stdin: true, ..request(&["sh", "-c", "cat; echo done"]) };
    let exec = scene.engine.create_exec(&id, &exec_request).await.unwrap();
    let mut stream = scene.engine.start_exec(&exec, false).await.unwrap();
    stream.write_all(b"typed\n").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut output = Vec::new();
    stream.read_to_end(&mut output).await.unwrap();
    assert_eq!(unframed(&output), ["typed\ndone\n", ""]);
    assert_eq!(scene.exit_code(&exec).await, 0);
}

#[tokio::test]
async fn exec_uses_given_environment_and_user() {
    let scene = Scene::new();
    let id = scene.running(&scene.spec("host")).await;
    let env = BTreeMap::from([("ASKED".to_owned(), "a=b c".to_owned())]);
    let exec_request =
        ExecRequest { env, user: Some("0:0".into()), ..request(&["sh", "-c", "echo $ASKED; id -u"]) };
    let exec = scene.engine.create_exec(&id, &exec_request).await.unwrap();
    let mut output = Vec::new();
    scene.engine.start_exec(&exec, false).await.unwrap().read_to_end(&mut output).await.unwrap();
    assert_eq!(unframed(&output), ["a=b c\n0\n", ""]);
}

#[tokio::test]
async fn exec_with_tty_has_the_given_terminal_size() {
    let scene = Scene::new();
    let id = scene.running(&scene.spec("host")).await;
    let exec_request =
        ExecRequest { tty: true, stdin: true, ..request(&["sh", "-c", "read go; stty size; tty"]) };
    let exec = scene.engine.create_exec(&id, &exec_request).await.unwrap();
    let mut stream = scene.engine.start_exec(&exec, true).await.unwrap();
    scene.engine.resize_exec(&exec, 133, 47).await.unwrap();
    assert_eq!(scene.engine.exec_exit_code(&exec).await.unwrap(), None, "it runs");
    stream.write_all(b"go\n").await.unwrap();
    let mut output = String::new();
    stream.read_to_string(&mut output).await.unwrap();
    assert!(output.contains("47 133") && output.contains("/dev/pts/"), "{output:?}");
    assert_eq!(scene.exit_code(&exec).await, 0);
}

#[tokio::test]
async fn exec_in_container_that_is_not_running_returns_conflict() {
    let scene = Scene::new();
    let id = scene.created(&scene.spec("idle")).await;
    let error = match scene.engine.create_exec(&id, &request(&["true"])).await {
        Err(error) => error,
        Ok(exec) => scene.engine.start_exec(&exec, false).await.map(drop).unwrap_err(),
    };
    assert_eq!(error.kind, ErrorKind::Conflict, "{error}");
}

#[tokio::test]
async fn exec_calls_with_unknown_id_return_absent_error() {
    let scene = Scene::new();
    let missing_id = ExecId("0".repeat(64));
    for error in [
        scene.engine.start_exec(&missing_id, false).await.map(drop).unwrap_err(),
        scene.engine.resize_exec(&missing_id, 80, 24).await.unwrap_err(),
        scene.engine.exec_exit_code(&missing_id).await.map(drop).unwrap_err(),
    ] {
        assert_eq!(error.kind, ErrorKind::Absent, "{error}");
    }
}
