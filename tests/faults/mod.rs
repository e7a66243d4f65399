//! What goes wrong around ostler: the real binary, the real Podman, and a fault between the two.
//!
//! Every test ends in the same question, asked in `truth.rs`: does what ostler says agree with what
//! Podman has, and does every process hold the token that the store takes?

mod bad_input;
mod contention;
mod crashes;
mod engine_lost;
mod identity;
mod late_starts;
mod truth;
mod unheard_ends;

use crate::support::{daemon::Site, podman::podman_says};

/// Short graces, so that a sweep that may act does so while somebody looks.
const HASTY: &str = "\
[sweep]
absence_grace = \"1s\"
unknown_grace = \"1s\"
[engine]
read_deadline = \"10s\"
[runtimes.plain]
stop_grace = \"1s\"
";

/// Ends at once when told to, and remembers with which token it was started.
const AGENT: &str =
    "trap 'exit 0' TERM; cat /configs/.auth_token > /tmp/held; while :; do sleep 3600 & wait; done";

/// The arguments of a creation whose process is [`AGENT`].
fn creation<'a>(name: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec!["create", name, "--image", crate::support::podman::image()];
    arguments.extend(more);
    arguments.extend(["--", "sh", "-c", AGENT]);
    arguments
}

/// Makes a workspace whose process is [`AGENT`] and waits until it is online; answers its id.
#[track_caller]
fn make(site: &Site, name: &str) -> String {
    site.ostler(creation(name, &[])).well();
    site.show(name)["id"].as_str().expect("a workspace has an id").to_owned()
}

/// A running container that carries a site's labels and that no row of it knows.
fn run_by_hand(instance: &str, workspace: &str, serial: usize) -> String {
    let labels = [format!("ostler.instance={instance}"), format!("ostler.workspace={workspace}")];
    let name = format!("ostler-{workspace}-{serial}");
    let idle = "trap 'exit 0' TERM; while :; do sleep 3600 & wait; done";
    let run = ["run", "--detach", "--network=none", "--stop-timeout=1", "--name", &name];
    let labels = ["--label", &labels[0], "--label", &labels[1]];
    let command = [crate::support::podman::image(), "sh", "-c", idle];
    podman_says(run.into_iter().chain(labels).chain(command)).trim().to_owned()
}
