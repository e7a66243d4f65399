//! Tests of the engine implementation with a real Podman.

mod commands;
mod containers;
mod events;
mod faults;
mod files;
mod images;
mod logs;
mod networks;
mod traps;
mod volumes;

use std::{collections::BTreeMap, future::Future, time::Duration};

use ostler::{
    domain::{
        ids::ContainerId,
        runtime::{Limits, User},
    },
    engine::{
        ContainerSpec, Engine, Environment, ExecId, ExecRequest, FileToWrite, Mount, MountSource, VolumeSpec,
        podman::Podman,
    },
    runtime::{
        clock::{Clock, SystemClock},
        entropy::{Entropy, SystemEntropy},
    },
};
use tokio::io::AsyncReadExt;
use uuid::Uuid;

use crate::support::{
    engine_proxy::EngineProxy,
    podman::{Cleanup, engine, image},
    ports::SINGLE,
};

/// Label of all objects that a test creates.
const LABEL: &str = "ostler.test";
/// Podman's default network, which always exists.
const DEFAULT_NETWORK: &str = "podman";
const AGENT: User = User { uid: 1000, gid: 1000 };
/// Time limit for each wait. Every operation in these tests is faster, even on a machine that swaps.
const WAIT_LIMIT: Duration = Duration::from_mins(1);
const CHECK_INTERVAL: Duration = Duration::from_millis(20);

/// An engine, and a unique id that the names and labels of a test's objects contain. Dropping the scene deletes all
/// objects with this label.
struct Scene {
    engine: Podman,
    id: Uuid,
    _cleanup: Cleanup,
}

/// Exit code and output of a command.
#[derive(Debug, PartialEq, Eq)]
struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Scene {
    fn new() -> Self {
        Self::of(engine())
    }

    /// A scene with an engine that uses the proxy.
    fn behind(proxy: &EngineProxy) -> Self {
        Self::of(proxy.engine())
    }

    fn of(engine: Podman) -> Self {
        let id = SystemEntropy.uuid();
        Self { engine, id, _cleanup: Cleanup::of_label(format!("{LABEL}={id}")) }
    }

    fn name(&self, what: &str) -> String {
        format!("ostler-test-{}-{what}", self.id)
    }

    fn label(&self) -> String {
        self.id.to_string()
    }

    fn labels(&self) -> BTreeMap<String, String> {
        BTreeMap::from([(LABEL.to_owned(), self.label())])
    }

    /// A small container that runs `sleep`.
    fn spec(&self, what: &str) -> ContainerSpec {
        ContainerSpec {
            name: self.name(what),
            image: image().to_owned(),
            command: ["sleep", "600"].map(str::to_owned).into(),
            labels: self.labels(),
            env: Environment::default(),
            user: AGENT,
            mounts: Vec::new(),
            publish: None,
            network: DEFAULT_NETWORK.to_owned(),
            aliases: Vec::new(),
            hostname: what.to_owned(),
            limits: Limits { memory_bytes: 64 << 20, cpus: 0.5, pids: 64 },
            read_only_root: false,
            privileged: false,
            stop_grace: Duration::from_secs(5),
            log_bytes: 10 << 20,
        }
    }

    /// A small container that runs a shell script.
    fn script(&self, what: &str, script: &str) -> ContainerSpec {
        ContainerSpec { command: ["sh", "-c", script].map(str::to_owned).into(), ..self.spec(what) }
    }

    async fn created(&self, spec: &ContainerSpec) -> ContainerId {
        self.engine.create_container(spec).await.expect("the container is created")
    }

    async fn running(&self, spec: &ContainerSpec) -> ContainerId {
        let id = self.created(spec).await;
        self.engine.start_container(&id).await.expect("the container starts");
        id
    }

    async fn stopped(&self, id: &ContainerId) {
        self.engine.stop_container(id, Duration::from_secs(5)).await.expect("the container stops");
    }

    /// Creates a volume and returns its mount.
    async fn volume(&self, what: &str, target: &str) -> Mount {
        let name = self.name(what);
        let spec = VolumeSpec { name: name.clone(), labels: self.labels(), owner: AGENT };
        self.engine.create_volume(&spec).await.expect("the volume is created");
        Mount { source: MountSource::Volume(name), target: target.to_owned(), read_only: false }
    }

    /// Runs a command in a container, without a terminal and without input.
    async fn run(&self, id: &ContainerId, command: &[&str]) -> Ran {
        let exec = self.engine.create_exec(id, &request(command)).await.expect("the command is prepared");
        let mut stream = self.engine.start_exec(&exec, false).await.expect("the command starts");
        let mut output = Vec::new();
        stream.read_to_end(&mut output).await.expect("the output is read");
        let [out, err] = unframed(&output);
        Ran { code: self.exit_code(&exec).await, out, err }
    }

    /// Output of a shell script, which must succeed.
    async fn shell(&self, id: &ContainerId, script: &str) -> String {
        let ran = self.run(id, &["sh", "-c", script]).await;
        assert_eq!(ran.code, 0, "{script}: {ran:?}");
        ran.out.trim_end().to_owned()
    }

    async fn exit_code(&self, exec: &ExecId) -> i32 {
        eventually("the command has ended", || async {
            self.engine.exec_exit_code(exec).await.expect("the command exists")
        })
        .await
    }
}

fn request(command: &[&str]) -> ExecRequest {
    ExecRequest {
        command: command.iter().map(|&word| word.to_owned()).collect(),
        tty: false,
        stdin: false,
        env: BTreeMap::new(),
        user: None,
    }
}

fn token_file(content: &str) -> FileToWrite {
    FileToWrite { name: ".auth_token".to_owned(), content: content.into(), mode: 0o600, owner: AGENT }
}

/// Splits a stream of frames into standard output and standard error.
fn unframed(mut frames: &[u8]) -> [String; 2] {
    let mut streams = [Vec::new(), Vec::new()];
    while let Some((header, rest)) = frames.split_first_chunk::<8>() {
        let [stream, 0, 0, 0, length @ ..] = *header else { panic!("no frame begins with {header:?}") };
        let (piece, rest) = rest.split_at(u32::from_be_bytes(length) as usize);
        streams[usize::from(stream == 2)].extend_from_slice(piece);
        frames = rest;
    }
    streams.map(|bytes| String::from_utf8(bytes).expect("the output is text"))
}

/// Calls `poll` until it returns a value.
async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut poll: impl FnMut() -> F) -> T {
    let clock = SystemClock::start();
    loop {
        if let Some(seen) = poll().await {
            return seen;
        }
        assert!(u128::from(clock.awake().0) < WAIT_LIMIT.as_millis(), "timed out waiting: {what}");
        clock.sleep(CHECK_INTERVAL).await;
    }
}

/// A free port of 127.0.0.1, outside the kernel's range for outgoing connections.
async fn free_port(engine: &Podman) -> u16 {
    eventually("a port is free", || async {
        let [high, low, ..] = *SystemEntropy.uuid().as_bytes();
        let port = SINGLE.start + u16::from_be_bytes([high, low]) % (SINGLE.end - SINGLE.start);
        engine.port_is_free(port).await.then_some(port)
    })
    .await
}
