//! What is removed goes into the trash, and comes back whole.

use crate::support::{
    daemon::{Site, until},
    podman::podman_says,
};

#[test]
fn a_removed_workspace_comes_back_with_its_container_its_own_files_and_its_volumes() {
    let mut site = Site::new("");
    site.serve();
    let made = site.create("keeper", &[]);
    let container = made["container_id"].as_str().unwrap().to_owned();
    site.ostler(["exec", "keeper", "--", "sh", "-c", "echo own > /tmp/own; echo work > /workspace/work"])
        .well();

    site.ostler(["rm", "keeper"]).well();
    until("its things lie in the trash", || {
        let trash = site.json(["trash", "ls"]);
        (trash[0]["state"] == "kept").then_some(())
    });
    assert!(podman_says(["ps", "-q", "--no-trunc"]).lines().all(|id| id != container), "it still runs");

    site.ostler(["undelete", "keeper"]).well();
    assert_eq!(site.show("keeper")["status"], "paused");
    site.ostler(["start", "keeper"]).well();
    let back = site.show("keeper");
    assert_eq!(back["container_id"], container.as_str(), "the container is another one");
    let read = site.ostler(["exec", "keeper", "--", "cat", "/tmp/own", "/workspace/work"]).well();
    assert_eq!(read, "own\nwork\n");
    assert_eq!(site.json(["trash", "ls"]).as_array().unwrap().len(), 0, "the trash still holds it");
}
