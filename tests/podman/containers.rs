//! Containers run as specified, and every call returns what the documentation of the trait says.

use std::{
    collections::BTreeMap,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
    time::Duration,
};

use ostler::{
    domain::{ids::ContainerId, observed::ContainerState, runtime::User, time::Awake},
    engine::{ContainerSpec, Engine, Environment, ErrorKind, Mount, MountSource, VolumeSpec},
    runtime::clock::{Clock, SystemClock},
};

use super::{AGENT, LABEL, Scene, eventually, free_port};
use crate::support::podman::{Cleanup, podman_output};

fn missing_id() -> ContainerId {
    ContainerId::try_from("0".repeat(64)).unwrap()
}

#[tokio::test]
async fn container_process_is_unprivileged_and_runs_under_init() {
    let scene = Scene::new();
    let id = scene.running(&scene.spec("confined")).await;
    let status = scene
        .shell(&id, "cat /proc/1/task/*/children | xargs -n1 | while read p; do cat /proc/$p/status; done")
        .await;
    for expected in [
        "NoNewPrivs:\t1",
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "CapPrm:\t0000000000000000",
    ] {
        assert!(status.contains(expected), "{expected:?} is not in: {status}");
    }
    assert_eq!(scene.shell(&id, "id -u; id -g").await, "1000\n1000");
    let first = scene.shell(&id, "tr '\\0' ' ' </proc/1/cmdline").await;
    assert!(first.contains("init"), "process 1 is not an init process: {first}");
}

#[tokio::test]
async fn resource_limits_are_set_in_the_container_cgroup() {
    let scene = Scene::new();
    let id = scene.running(&scene.spec("limited")).await;
    let script = "cd /sys/fs/cgroup; if [ -e memory.max ]; then cat memory.max memory.swap.max cpu.max pids.max; \
                  else cat memory/memory.limit_in_bytes memory/memory.memsw.limit_in_bytes \
                  cpu/cpu.cfs_quota_us pids/pids.max; fi";
    let limits = scene.shell(&id, script).await;
    let expected = ["67108864\n67108864\n50000\n64", "67108864\n0\n50000 100000\n64"];
    assert!(expected.contains(&limits.as_str()), "memory, swap, cpu, pids: {limits}");
}

/// Podman 4.3.1 detects an out-of-memory kill only if its service was started in a certain directory: conmon 2.1.6
/// writes a file into the directory in which the service was started, and Podman looks for the file in another one. The
/// expected value is therefore what Podman reports.
#[tokio::test]
async fn out_of_memory_exit_is_reported_as_podman_reports_it() {
    let scene = Scene::new();
    let mut spec = scene.script("greedy", "x=a; while true; do x=$x$x; done");
    spec.limits.memory_bytes = 16 << 20;
    let id = scene.running(&spec).await;
    let seen = eventually("the kernel has killed it", || async {
        let seen = scene.engine.inspect_container(&id).await.unwrap();
        (seen.state == ContainerState::Exited).then_some(seen)
    })
    .await;
    assert_eq!(seen.exit_code, Some(137), "{seen:?}");
    let reported_by_podman = podman_output(["inspect", "--format", "{{.State.OOMKilled}}", id.as_str()]);
    assert_eq!(seen.out_of_memory.to_string(), reported_by_podman.trim());
}

#[tokio::test]
async fn privileged_container_keeps_its_capabilities() {
    let scene = Scene::new();
    let spec = ContainerSpec { privileged: true, user: User { uid: 0, gid: 0 }, ..scene.spec("privileged") };
    let id = scene.running(&spec).await;
    let status = scene.shell(&id, "grep -E 'CapEff|NoNewPrivs' /proc/self/status").await;
    assert!(!status.contains("0000000000000000") && status.contains("NoNewPrivs:\t0"), "{status}");
}

#[tokio::test]
async fn mounts_of_every_kind_exist_and_are_read_only_as_requested() {
    let scene = Scene::new();
    let host = tempfile::tempdir().unwrap();
    std::fs::write(host.path().join("seen"), "from the host").unwrap();
    let host_mount = |target: &str, read_only| Mount {
        source: MountSource::HostDirectory(host.path().to_str().unwrap().to_owned()),
        target: target.to_owned(),
        read_only,
    };
    let mut spec = scene.spec("mounts");
    let work = scene.volume("work", "/workspace").await;
    let config = Mount { read_only: true, ..scene.volume("config", "/configs").await };
    let tmpfs = Mount { source: MountSource::Tmpfs, target: "/tmp".into(), read_only: false };
    spec.mounts = vec![work, config, tmpfs, host_mount("/host", false), host_mount("/host-ro", true)];
    spec.read_only_root = true;
    let id = scene.running(&spec).await;

    assert_eq!(scene.shell(&id, "cat /host/seen /host-ro/seen").await, "from the hostfrom the host");
    assert_eq!(scene.shell(&id, "touch /workspace/f /tmp/f; stat -c %u /workspace").await, "1000");
    for read_only in ["/configs", "/host-ro", "/", "/etc"] {
        let ran = scene.run(&id, &["touch", &format!("{read_only}/f")]).await;
        assert!(ran.code != 0 && ran.err.contains("Read-only"), "{read_only} could be written: {ran:?}");
    }
    assert_eq!(scene.shell(&id, "stat -f -c %T /tmp").await, "tmpfs");
    let seen = scene.engine.inspect_container(&id).await.unwrap();
    let mut volumes = seen.volumes;
    volumes.sort();
    assert_eq!(volumes, [scene.name("config"), scene.name("work")]);
}

#[tokio::test]
async fn container_has_requested_name_labels_environment_and_hostname() {
    let scene = Scene::new();
    let mut spec = scene.spec("described");
    spec.env = Environment(BTreeMap::from([("TIER".to_owned(), "2 = two".to_owned())]));
    spec.labels.insert("ostler.spec".to_owned(), r#"{"a":"b c"}"#.to_owned());
    let id = scene.running(&spec).await;
    assert_eq!(scene.shell(&id, "echo $TIER; hostname").await, "2 = two\ndescribed");
    let seen = scene.engine.inspect_container(&id).await.unwrap();
    assert_eq!((&seen.id, &seen.name), (&id, &spec.name));
    assert_eq!(seen.env.0.get("TIER").map(String::as_str), Some("2 = two"));
    let listed = scene.engine.list_containers(LABEL, Some(&scene.label())).await.unwrap();
    assert_eq!(listed.iter().map(|c| &c.labels).collect::<Vec<_>>(), [&spec.labels]);
}

#[tokio::test]
async fn port_is_published_on_loopback_only() {
    let scene = Scene::new();
    let port = free_port(&scene.engine).await;
    let serve = "mkdir /tmp/w && echo hello >/tmp/w/index.html && exec httpd -f -p 8000 -h /tmp/w";
    let spec = ContainerSpec { publish: Some((8000, port)), ..scene.script("web", serve) };
    let id = scene.created(&spec).await;
    assert_eq!(scene.engine.inspect_container(&id).await.unwrap().host_port, Some(port));
    scene.engine.start_container(&id).await.unwrap();
    assert!(!scene.engine.port_is_free(port).await, "port {port} is published, but reported as free");
    let answer = eventually("the container answers on its port", || async {
        let get = || {
            use std::io::{Read, Write};
            let mut stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).map(|_| answer)
        };
        get().ok().filter(|answer: &String| !answer.is_empty())
    })
    .await;
    assert!(answer.contains("hello"), "{answer}");
    let ports = podman_output(["port", id.as_str()]);
    assert_eq!(ports.trim(), format!("8000/tcp -> 127.0.0.1:{port}"));
}

#[tokio::test]
async fn start_returns_port_in_use_when_host_port_is_taken() {
    let scene = Scene::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    assert!(!scene.engine.port_is_free(port).await);
    let id = scene.created(&ContainerSpec { publish: Some((8000, port)), ..scene.spec("late") }).await;
    let error = scene.engine.start_container(&id).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::PortInUse, "{error}");
    drop(taken);
    scene.engine.start_container(&id).await.expect("the port is free again");
}

/// If a service is killed during a start, it leaves a conmon unknown to Podman, which holds the port that Podman needs
/// for the next start. That moment is hard to reproduce, so the test itself holds the port, and runs a process that
/// looks like the container's conmon.
#[tokio::test]
async fn start_is_blocked_while_leftover_conmon_holds_port() {
    let scene = Scene::new();
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = held.local_addr().unwrap().port();
    let id = scene.created(&ContainerSpec { publish: Some((8000, port)), ..scene.spec("half") }).await;
    let mut conmon = Command::new("sh")
        .arg0("/usr/bin/conmon")
        .args(["-c", "read forever", "-c", id.as_str()])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let clock = SystemClock::start();
    let first_error = scene.engine.start_container(&id).await.unwrap_err();
    let until_given_up = clock.awake().since(Awake(0));
    let (second, ()) = tokio::join!(scene.engine.start_container(&id), async {
        // Closes the process's input, which ends it, during the checks of the second call. The checks take 3 s after
        // Podman has refused the start. The duration of the first call shows how long the refusal takes.
        clock.sleep(until_given_up.saturating_sub(Duration::from_millis(1500))).await;
        drop(conmon.stdin.take());
        conmon.wait().unwrap();
    });
    assert_eq!(first_error.kind, ErrorKind::HalfStarted, "{first_error}");
    let second_error = second.unwrap_err();
    assert_eq!(second_error.kind, ErrorKind::Conflict, "{second_error}");
    drop(held);
    scene.engine.start_container(&id).await.expect("the port is free again");
}

#[tokio::test]
async fn container_reports_created_running_and_exited_states() {
    let scene = Scene::new();
    let list = async || {
        let listed = scene.engine.list_containers(LABEL, Some(&scene.label())).await.unwrap();
        <[_; 1]>::try_from(listed).expect("one container is listed")
    };
    let id = scene.created(&scene.script("life", "trap 'exit 7' TERM; while true; do sleep 0.1; done")).await;
    let [made] = list().await;
    assert_eq!((made.state, made.exit_code, made.started_at), (ContainerState::Created, None, None));
    assert_eq!((&made.id, &made.name), (&id, &scene.name("life")));

    scene.engine.start_container(&id).await.unwrap();
    let [running] = list().await;
    assert_eq!((running.state, running.exit_code), (ContainerState::Running, None));
    let age = SystemClock::start().now().since(running.started_at.expect("it was started"));
    assert!(age < Duration::from_mins(5), "started {age:?} ago");

    scene.stopped(&id).await;
    let [exited] = list().await;
    assert_eq!((exited.state, exited.started_at), (ContainerState::Exited, running.started_at));
    let seen = scene.engine.inspect_container(&id).await.unwrap();
    assert_eq!((seen.state, seen.exit_code), (exited.state, exited.exit_code));
}

#[tokio::test]
async fn exited_container_reports_its_exit_code() {
    let scene = Scene::new();
    let id = scene.running(&scene.script("seven", "exit 7")).await;
    let seen = eventually("it has exited", || async {
        let seen = scene.engine.inspect_container(&id).await.unwrap();
        (seen.state == ContainerState::Exited).then_some(seen)
    })
    .await;
    assert_eq!((seen.exit_code, seen.out_of_memory), (Some(7), false));
}

#[tokio::test]
async fn container_paused_by_hand_is_reported_as_paused() {
    let scene = Scene::new();
    let id = scene.running(&scene.spec("frozen")).await;
    podman_output(["pause", id.as_str()]);
    let seen = scene.engine.inspect_container(&id).await.unwrap();
    podman_output(["unpause", id.as_str()]);
    assert_eq!(seen.state, ContainerState::Paused);
}

#[tokio::test]
async fn start_of_running_container_returns_conflict() {
    let scene = Scene::new();
    let id = scene.running(&scene.spec("twice")).await;
    let error = scene.engine.start_container(&id).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict, "{error}");
}

#[tokio::test]
async fn stop_succeeds_when_container_is_stopped_or_missing() {
    let scene = Scene::new();
    let id = scene.running(&scene.spec("stopped")).await;
    scene.stopped(&id).await;
    scene.stopped(&id).await;
    scene.stopped(&missing_id()).await;
    let created = scene.created(&scene.spec("created")).await;
    scene.stopped(&created).await;
}

#[tokio::test]
async fn operations_on_missing_container_return_absent_error() {
    let scene = Scene::new();
    let engine = &scene.engine;
    let errors = [
        engine.inspect_container(&missing_id()).await.map(drop).unwrap_err(),
        engine.start_container(&missing_id()).await.unwrap_err(),
        engine.rename_container(&missing_id(), &scene.name("new")).await.unwrap_err(),
        engine.read_file(&missing_id(), "/etc/passwd").await.map(drop).unwrap_err(),
        engine.write_file(&missing_id(), "/tmp", &super::token_file("x")).await.unwrap_err(),
        engine.create_exec(&missing_id(), &super::request(&["true"])).await.map(drop).unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind, ErrorKind::Absent, "{error}");
    }
    engine.delete_container(&missing_id()).await.expect("deleting a missing container succeeds");
}

#[tokio::test]
async fn create_and_rename_return_conflict_when_name_is_taken() {
    let scene = Scene::new();
    let first = scene.created(&scene.spec("name")).await;
    let error = scene.engine.create_container(&scene.spec("name")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict, "{error}");
    let second = scene.created(&scene.spec("other")).await;
    let error = scene.engine.rename_container(&second, &scene.name("name")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict, "{error}");
    scene.engine.rename_container(&first, &scene.name("moved")).await.unwrap();
    assert_eq!(scene.engine.inspect_container(&first).await.unwrap().name, scene.name("moved"));
    scene.engine.rename_container(&second, &scene.name("name")).await.expect("the name is free now");
}

#[tokio::test]
async fn running_container_can_be_renamed() {
    let scene = Scene::new();
    let id = scene.running(&scene.spec("old")).await;
    scene.engine.rename_container(&id, &scene.name("new")).await.unwrap();
    let listed = scene.engine.list_containers(LABEL, Some(&scene.label())).await.unwrap();
    assert_eq!(listed.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), [scene.name("new")]);
}

#[tokio::test]
async fn delete_refuses_running_container_and_keeps_named_volumes() {
    let scene = Scene::new();
    let mut spec = scene.spec("deleted");
    spec.mounts = vec![scene.volume("kept", "/workspace").await];
    let id = scene.running(&spec).await;
    let error = scene.engine.delete_container(&id).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict, "{error}");
    scene.stopped(&id).await;
    scene.engine.delete_container(&id).await.unwrap();
    scene.engine.delete_container(&id).await.expect("deleting twice succeeds");
    let error = scene.engine.inspect_container(&id).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Absent, "{error}");
    scene.engine.inspect_volume(&scene.name("kept")).await.expect("the volume stays");
}

#[tokio::test]
async fn create_with_missing_image_returns_image_missing() {
    let scene = Scene::new();
    let spec = ContainerSpec { image: "localhost/ostler-no-such-image:1".into(), ..scene.spec("imageless") };
    let error = scene.engine.create_container(&spec).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::ImageMissing, "{error}");
}

#[tokio::test]
async fn create_with_missing_volume_fails_and_creates_no_volume() {
    let scene = Scene::new();
    // If Podman created the volume implicitly, it would have no label, so it is deleted by its name.
    let _cleanup = Cleanup::of_label(format!("{LABEL}={}", scene.label())).and_name(scene.name("missing"));
    let mut spec = scene.spec("volumeless");
    let source = MountSource::Volume(scene.name("missing"));
    spec.mounts = vec![Mount { source, target: "/workspace".into(), read_only: false }];
    let error = scene.engine.create_container(&spec).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Absent, "{error}");
    let error = scene.engine.inspect_volume(&scene.name("missing")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Absent, "{error}");
}

#[tokio::test]
async fn create_with_missing_network_returns_absent_error() {
    let scene = Scene::new();
    let spec = ContainerSpec { network: scene.name("missing"), ..scene.spec("networkless") };
    let error = scene.engine.create_container(&spec).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Absent, "{error}");
}

#[tokio::test]
async fn container_with_missing_program_fails_to_start_or_exits_nonzero() {
    let scene = Scene::new();
    let spec = ContainerSpec { command: vec!["/no/such/program".into()], ..scene.spec("commandless") };
    let id = scene.created(&spec).await;
    // With an init as process 1, the start may succeed, and the container then exits. Without one, the start fails.
    if let Err(error) = scene.engine.start_container(&id).await {
        assert_eq!(error.kind, ErrorKind::Other, "{error}");
    } else {
        let exit_code = || async { scene.engine.inspect_container(&id).await.unwrap().exit_code };
        assert_ne!(eventually("it has exited", exit_code).await, 0);
    }
}

#[tokio::test]
async fn listing_contains_only_containers_with_the_label() {
    let scene = Scene::new();
    let neighbour = Scene::new();
    let ours = scene.created(&scene.spec("ours")).await;
    let theirs = neighbour.created(&neighbour.spec("theirs")).await;
    let ids = |listed: Vec<ostler::domain::observed::ObservedContainer>| {
        listed.into_iter().map(|container| container.id).collect::<Vec<_>>()
    };
    assert_eq!(
        ids(scene.engine.list_containers(LABEL, Some(&scene.label())).await.unwrap()),
        std::slice::from_ref(&ours)
    );
    let any = ids(scene.engine.list_containers(LABEL, None).await.unwrap());
    assert!(any.contains(&ours) && any.contains(&theirs), "{any:?}");
    assert_eq!(ids(scene.engine.list_containers(LABEL, Some("absent")).await.unwrap()), []);
}

#[tokio::test]
async fn describe_returns_podman_version_and_rootless_mode() {
    let scene = Scene::new();
    let info = scene.engine.describe().await.unwrap();
    let version = podman_output(["version", "--format", "{{.Server.Version}}"]);
    assert_eq!(info.version, format!("Podman {}", version.trim()));
    assert!(info.address.starts_with("unix:///"), "{info:?}");
    let rootless = podman_output(["info", "--format", "{{.Host.Security.Rootless}}"]);
    assert_eq!(rootless.trim(), info.rootless.to_string());
}

#[tokio::test]
async fn volume_is_owned_by_the_user_it_was_created_for() {
    let scene = Scene::new();
    let owner = User { uid: 1234, gid: 2345 };
    let volume = VolumeSpec { name: scene.name("owned"), labels: scene.labels(), owner };
    scene.engine.create_volume(&volume).await.unwrap();
    let source = MountSource::Volume(volume.name);
    let mount = Mount { source, target: "/workspace".into(), read_only: false };
    let id = scene.running(&ContainerSpec { user: owner, mounts: vec![mount], ..scene.spec("owner") }).await;
    assert_eq!(scene.shell(&id, "touch /workspace/f; stat -c %u:%g /workspace").await, "1234:2345");
    assert_ne!(owner, AGENT);
}
