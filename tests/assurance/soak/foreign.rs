//! Objects on the same Podman that do not belong to ostler and must never be touched.

use std::{collections::BTreeMap, fs};

use ostler::runtime::entropy::{Entropy as _, SystemEntropy};

use crate::support::podman::{self, Cleanup, directory_of, inspected, podman_output};

/// Template of the fields of a container that must not change.
const CONTAINER: &str = "{{.Id}} {{.Name}} {{.State.Status}} {{.State.StartedAt}} {{.State.Pid}}";
/// Template of the fields of a volume that must not change.
const VOLUME: &str = "{{.Name}} {{.CreatedAt}} {{.Labels}}";
const TREASURE: &str = "not yours";

/// The foreign objects, and their initial state.
pub(super) struct Foreign {
    containers: BTreeMap<String, String>,
    volumes: BTreeMap<String, String>,
    _cleanup: Cleanup,
}

impl Foreign {
    /// Creates them: a neighbour's workspace, a user's copies of a workspace of ours, and an unrelated container.
    pub(super) fn create_foreign(instance: &str, workspace: &str) -> Self {
        let [neighbour, theirs] = [(); 2].map(|()| SystemEntropy.uuid().to_string());
        let ours = labels(instance, workspace);
        let (copy, kept, volume) =
            (format!("copy-{neighbour}"), format!("kept-{neighbour}"), format!("saved-{neighbour}"));
        let bystander = format!("bystander-{neighbour}");
        let (container, work) = (format!("ostler-{theirs}-1"), format!("ostler-{theirs}-work"));
        // The cleanup is registered before anything is created, so that a panic leaves no objects behind.
        let cleanup = [&copy, &kept, &volume, &bystander, &container, &work]
            .into_iter()
            .fold(Cleanup::of_label(format!("ostler.instance={neighbour}")), Cleanup::and_name);
        let their_labels = labels(&neighbour, &theirs);
        make_volume(&work, &their_labels);
        make_volume(&volume, &ours);
        run("run", &container, &their_labels);
        run("run", &copy, &ours);
        run("create", &kept, &ours);
        run("run", &bystander, &[]);
        let mut placed = Self { containers: BTreeMap::new(), volumes: BTreeMap::new(), _cleanup: cleanup };
        for name in [container, copy, kept, bystander] {
            placed.containers.insert(name.clone(), inspected(&name, CONTAINER).expect("it was just made"));
        }
        for name in [work, volume] {
            placed.volumes.insert(name.clone(), seen_volume(&name).expect("it was just made"));
        }
        placed
    }

    /// Descriptions of changed objects.
    pub(super) fn touched(&self) -> Vec<String> {
        let now = |name: &String| inspected(name, CONTAINER).unwrap_or_else(|| "gone".into());
        let containers = self.containers.iter().map(|(name, was)| (name, was, now(name)));
        let volumes = self.volumes.iter();
        let volumes =
            volumes.map(|(name, was)| (name, was, seen_volume(name).unwrap_or_else(|| "gone".into())));
        let changed = containers.chain(volumes).filter(|(_, was, now)| *was != now);
        changed.map(|(name, was, now)| format!("{name} was `{was}` and is `{now}`")).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.containers.len() + self.volumes.len()
    }
}

/// The labels of a workspace, as arguments.
pub(super) fn labels(instance: &str, workspace: &str) -> [String; 2] {
    [format!("--label=ostler.instance={instance}"), format!("--label=ostler.workspace={workspace}")]
}

/// Creates a container with an idle process.
pub(super) fn run(how: &str, name: &str, labels: &[String]) -> String {
    let idle = "trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done";
    let detach = if how == "run" { &["--detach"][..] } else { &[] };
    let options = ["--network=none", "--stop-timeout=1", "--name", name];
    let labels = labels.iter().map(String::as_str);
    let command = [podman::image(), "sh", "-c", idle];
    let all = [how].into_iter().chain(detach.iter().copied()).chain(options).chain(labels).chain(command);
    podman_output(all).trim().to_owned()
}

fn make_volume(name: &str, labels: &[String]) {
    podman_output(["volume", "create"].into_iter().chain(labels.iter().map(String::as_str)).chain([name]));
    fs::write(directory_of(name).join("treasure"), TREASURE).expect("a volume can be written to");
}

fn seen_volume(name: &str) -> Option<String> {
    let output = podman::podman().args(["volume", "inspect", "--format", VOLUME, name]).output();
    let output = output.expect("podman runs");
    if !output.status.success() {
        return None;
    }
    let treasure = fs::read_to_string(directory_of(name).join("treasure")).unwrap_or_default();
    Some(format!("{} {treasure}", String::from_utf8_lossy(&output.stdout).trim()))
}
