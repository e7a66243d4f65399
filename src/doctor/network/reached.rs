//! Checks whether workspaces reach ostler, by a request from inside one of them or by a heartbeat.

use std::time::Duration;

use super::limits::{DEADLINE, RECENT_HEARTBEAT};
use crate::{
    api::doctor::Check,
    doctor::{
        parts::Doctor,
        verdict::{fail, ok, warn},
    },
    domain::{duration::words, naming::WorkspaceName, status::Status, time::Timestamp, workspace::Kind},
    runtime::clock::within,
    store::Described,
};

impl Doctor {
    pub(super) async fn reached(&self, rows: &[Described]) -> Check {
        let mut running: Vec<_> = rows.iter().filter_map(|one| Some((ask_rank(one)?, one))).collect();
        running.sort_by_key(|(ask_rank, _)| *ask_rank);
        let running: Vec<_> = running.into_iter().map(|(_, one)| one).collect();
        let asked = within(&*self.0.clock, DEADLINE, self.ask_one(rows, &running)).await;
        match asked.unwrap_or(Err("the request timed out")) {
            Ok(check) => check,
            Err(why) => {
                without_asking(rows, self.newest_heartbeat(rows), &self.0.network.advertised_url, why)
            }
        }
    }

    pub(super) fn newest_heartbeat<'a>(
        &self,
        rows: &'a [Described],
    ) -> Option<(Duration, &'a WorkspaceName)> {
        newest_heartbeat(rows, self.0.clock.now(), self.0.network.since)
    }
}

/// Position of the workspace's status in the order in which running containers are asked; `None` if the workspace has
/// no running container.
pub(super) fn ask_rank(one: &Described) -> Option<u8> {
    if one.row.kind != Kind::Container {
        return None;
    }
    match one.row.status {
        Status::Online => Some(0),
        Status::Degraded => Some(1),
        Status::Provisioning => Some(2),
        Status::Offline
        | Status::Failed(_)
        | Status::Paused
        | Status::Hibernating
        | Status::Hibernated
        | Status::AwaitingAgent
        | Status::Removed => None,
    }
}

pub(super) fn unreached(name: &str, url: &str, output: &str, port: u16) -> Check {
    let url = if url.is_empty() { "its configured URL, which is empty" } else { url };
    fail(
        "network",
        format!("`{name}` does not reach ostler at {url}: {output}"),
        format!(
            "if a firewall filters traffic from the workspaces' bridge to this host, allow port {port}. If the address \
             is wrong, set `network.listen` (where ostler listens) or `network.platform_url` (the URL given to \
             workspaces), then run `ostler recreate {name}`"
        ),
    )
}

/// Returns the age and the sender of the newest heartbeat of a container, if it is at most `RECENT_HEARTBEAT` old and
/// arrived at this process, that is, not before `since`.
fn newest_heartbeat(
    rows: &[Described],
    now: Timestamp,
    since: Timestamp,
) -> Option<(Duration, &WorkspaceName)> {
    let heartbeats = rows.iter().filter(|one| one.row.kind == Kind::Container);
    let newest = heartbeats.filter_map(|one| Some((one.vitals.last_heartbeat_at?, &one.row.name))).max()?;
    Some((now.since(newest.0), newest.1)).filter(|(ago, _)| *ago <= RECENT_HEARTBEAT && newest.0 >= since)
}

/// The network check if no request from inside a container gave a result. A recent heartbeat then proves that
/// workspaces reach ostler.
fn without_asking(
    rows: &[Described],
    newest_heartbeat: Option<(Duration, &WorkspaceName)>,
    advertised: &str,
    why: &str,
) -> Check {
    match newest_heartbeat {
        Some((ago, name)) => ok(
            "network",
            format!("`{name}` reaches ostler: its last heartbeat was {} ago ({why})", words(ago)),
        ),
        None if !rows.iter().any(|one| ask_rank(one).is_some()) => ok(
            "network",
            format!("whether workspaces reach ostler cannot be checked: {why}. Workspaces use {advertised}"),
        ),
        None => warn(
            "network",
            format!(
                "whether workspaces reach ostler at {advertised} is not known: {why}, and no heartbeat arrived recently"
            ),
            "start a workspace whose image has /bin/sh and wget, curl or python3, then run `ostler doctor` again",
        ),
    }
}
