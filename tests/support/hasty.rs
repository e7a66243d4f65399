//! Sites with short timeouts, and workspaces that save the token with which they were started.

use super::{daemon::Site, podman};

/// Short graces, so that a sweep acts within the time of a test.
pub(crate) const HASTY: &str = "\
[sweep]
absence_grace = \"1s\"
unknown_grace = \"1s\"
[engine]
read_deadline = \"10s\"
[runtimes.plain]
stop_grace = \"1s\"
";

/// Exits at once on SIGTERM, and saves the token with which it was started.
pub(crate) const AGENT: &str =
    "trap 'exit 0' TERM; cat /configs/.auth_token > /tmp/held; while :; do sleep 3600 & wait; done";

/// Arguments of a `create` command for a workspace that runs [`AGENT`].
pub(crate) fn creation<'a>(name: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec!["create", name, "--image", podman::image()];
    arguments.extend(more);
    arguments.extend(["--", "sh", "-c", AGENT]);
    arguments
}

/// Creates a workspace that runs [`AGENT`] and waits until it is online; returns its id.
#[track_caller]
pub(crate) fn make(site: &Site, name: &str) -> String {
    site.ostler(creation(name, &[])).well();
    site.show(name)["id"].as_str().expect("a workspace has an id").to_owned()
}

/// Starts a container with a site's labels that is unknown to the site's registry.
pub(crate) fn run_manually(instance: &str, workspace: &str, serial: usize) -> String {
    let labels = [format!("ostler.instance={instance}"), format!("ostler.workspace={workspace}")];
    let name = format!("ostler-{workspace}-{serial}");
    let idle = "trap 'exit 0' TERM; while :; do sleep 3600 & wait; done";
    let run = ["run", "--detach", "--network=none", "--stop-timeout=1", "--name", &name];
    let labels = ["--label", &labels[0], "--label", &labels[1]];
    let command = [podman::image(), "sh", "-c", idle];
    podman::podman_output(run.into_iter().chain(labels).chain(command)).trim().to_owned()
}
