//! Containers reach the state that their rows demand, also after manual changes.

use crate::support::{
    daemon::{Site, until},
    podman::{has_volume, inspected, podman_output},
};

fn state(container: &str) -> String {
    inspected(container, "{{.State.Status}}").unwrap()
}

#[test]
fn killed_process_is_reported_with_exit_code_and_can_be_started() {
    let mut site = Site::new("");
    site.serve();
    let made = site.create("worker", &[]);
    let container = made["container_id"].as_str().unwrap();
    podman_output(["kill", container]);

    site.sweep_until("check_containers", |_| site.show("worker")["status"] == "offline");
    let row = site.show("worker");
    assert!(row["status_detail"].as_str().unwrap().contains("exit code 137"), "{row}");
    assert!(site.ostler(["why", "worker"]).stdout.contains("137"), "`why` does not show the exit code");
    site.ostler(["start", "worker"]).well();
    let back = site.show("worker");
    assert_eq!(back["container_id"], container);
    assert!(back["incarnation"].as_u64() > made["incarnation"].as_u64(), "{back}");

    // `podman restart` changes neither the incarnation nor the token.
    let token = site.token_in_volume("worker");
    podman_output(["restart", "--time=1", container]);
    // The exit during that restart may have been recorded. Even then, the running container is shown as online and is
    // not started again.
    let before = back["incarnation"].clone();
    site.sweep_until("check_containers", |_| site.show("worker")["status"] == "online");
    assert_eq!(site.show("worker")["incarnation"], before);
    assert!(site.is_valid("worker", &token) && site.token_in_volume("worker") == token);
}

#[test]
fn stopped_workspace_is_stopped_again_after_manual_start() {
    let mut site = Site::new("");
    site.serve();
    let made = site.create("worker", &[]);
    let container = made["container_id"].as_str().unwrap();
    site.ostler(["stop", "worker"]).well();
    assert_eq!((state(container).as_str(), &site.show("worker")["status"]), ("exited", &"paused".into()));
    site.ostler(["stop", "worker"]).well();
    site.sweep_all();
    assert_eq!(state(container), "exited", "a sweep started a workspace that an operator stopped");

    podman_output(["start", container]);
    let run = site.sweep_until("settle", |run| run["actions"].to_string().contains("applied"));
    assert_eq!(state(container), "exited", "{run}");
    assert_eq!(site.show("worker")["status"], "paused");
    assert!(run["actions"][0]["evidence"].as_str().unwrap().contains("paused"), "{run}");

    site.ostler(["start", "worker"]).well();
    assert_eq!(state(container), "running");
    site.ostler(["start", "worker"]).well();
    site.ostler(["restart", "worker"]).well();
    assert_eq!(site.show("worker")["container_id"], container);
}

#[test]
fn set_changes_take_effect_when_workspace_is_recreated() {
    let mut site = Site::new("");
    site.serve();
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(two.path().join("file"), "of two\n").unwrap();
    let config = two.path().join("config.yaml");
    let location = |directory: &tempfile::TempDir| directory.path().to_str().unwrap().to_owned();
    std::fs::write(&config, "first\n").unwrap();
    let config_path = config.to_str().unwrap();
    let directory = format!("{}:ro", location(&one));
    site.create(
        "worker",
        &["-e", "LEVEL=info", "-e", "OLD=1", "--dir", &directory, "--config-file", config_path],
    );
    std::fs::write(&config, "second\n").unwrap();
    let directory = format!("{}:ro", location(&two));
    let set = [
        "set",
        "worker",
        "-e",
        "LEVEL=debug",
        "--unset-env",
        "OLD",
        "--dir",
        &directory,
        "--config-file",
        config_path,
        "--",
        "sh",
        "-c",
        "trap 'exit 0' TERM; echo changed command; while :; do sleep 3600 & wait; done",
    ];
    let set = site.ostler(set);
    assert!(set.code == 0 && set.stderr.contains("ostler recreate worker"), "{set:?}");
    let read = || {
        let read = "echo $LEVEL $OLD; cat /configs/config.yaml; cat /workspace/file 2>/dev/null";
        site.ostler(["exec", "worker", "--", "sh", "-c", read]).stdout
    };
    assert_eq!(read(), "info 1\nfirst\n", "`set` changed a running container");

    site.ostler(["recreate", "worker"]).well();
    assert_eq!(read(), "debug\nsecond\nof two\n");
    assert_eq!(site.show("worker")["drifted"], false);
    until("the changed command runs", || {
        site.ostler(["logs", "worker"]).stdout.contains("changed command").then_some(())
    });
    site.ostler(["exec", "worker", "--", "sh", "-c", "echo own > /configs/config.yaml"]).well();
    site.ostler(["restart", "worker"]).well();
    assert_eq!(read(), "debug\nown\nof two\n", "the file is written only once");
}

#[test]
fn recreate_keeps_work_volume_and_moves_old_container_to_trash() {
    let mut site = Site::new("");
    site.serve();
    let made = site.create("worker", &[]);
    let old = made["container_id"].as_str().unwrap();
    let work = format!("ostler-{}-work", made["id"].as_str().unwrap());
    let write = "echo own > /tmp/own; echo work > /workspace/work";
    site.ostler(["exec", "worker", "--", "sh", "-c", write]).well();
    site.stop();
    site.configure("[runtimes.plain]\nmemory = \"256MiB\"\nenv = { FLAVOUR = \"new\" }\n");
    site.serve();
    assert_eq!(site.show("worker")["drifted"], true);
    assert_eq!(state(old), "running", "a changed configuration affected a running container");

    site.ostler(["recreate", "worker"]).well();
    let new = site.show("worker");
    assert_eq!((&new["status"], &new["drifted"]), (&"online".into(), &false.into()), "{new}");
    assert_ne!(new["container_id"], old);
    let read = "cat /workspace/work; echo $FLAVOUR; ls /tmp/own";
    let read = site.ostler(["exec", "worker", "--", "sh", "-c", read]);
    assert_eq!(
        read.stdout, "work\nnew\n",
        "the container's own files were kept, or its work was lost: {read:?}"
    );
    assert!(site.live_instance_token_matches("worker"));

    let trash = site.trash();
    assert_eq!((&trash[0]["state"], &trash[0]["reason"]), (&"kept".into(), &"replaced".into()), "{trash:?}");
    assert_eq!((trash.len(), &trash[0]["container_id"]), (1, &old.into()), "{trash:?}");
    let refused = site.ostler(["trash", "restore", "worker"]);
    assert!(refused.code == 4 && refused.stderr.contains("podman cp"), "{refused:?}");
    site.sweep_all();
    site.ostler(["trash", "empty", "--yes"]).well();
    assert!(
        inspected(old, "{{.Id}}").is_none() && has_volume(&work),
        "emptying the trash deleted the work volume, or kept the container"
    );
    assert_eq!(site.show("worker")["status"], "online");
}
