//! Injects one fault after another; the seed and the current state choose kind and target.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use ostler::runtime::entropy::{Entropy as _, SystemEntropy};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{LOSERS, Operator, Record, any, foreign, pause, rows, text};
use crate::support::{
    daemon::{Site, until},
    podman::{Service, directory_of, has_volume, podman},
    rng::Rng,
};

/// Minimum number of faults, and the factor by which the duration may grow to reach it, because on a busy machine few
/// faults may fit into a minute.
const FEWEST_FAULTS: u64 = 40;
const LONGEST: u32 = 4;
/// Average interval between two faults, in milliseconds.
const BETWEEN_FAULTS: usize = 150;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    ProcessKilled,
    PodmanKilled,
    ConmonKilled,
    ConmonAndProcessKilled,
    ServiceKilled,
    DaemonKilled,
    BothKilled,
    ConfigurationWiped,
    ContainerRemoved,
    EverythingButWorkRemoved,
    StartedByHand,
    StoppedByHand,
    UnknownAdded,
    StrayAdded,
}

/// Weight of each fault, and its name in the report.
const FAULTS: [(Fault, usize, &str); 14] = [
    (Fault::ProcessKilled, 18, "kill -9 of a container's process"),
    (Fault::PodmanKilled, 8, "podman kill"),
    (Fault::ConmonKilled, 9, "kill -9 of a conmon"),
    (Fault::ConmonAndProcessKilled, 5, "kill -9 of a conmon, then of its container's process"),
    (Fault::ServiceKilled, 5, "kill -9 of the Podman service"),
    (Fault::DaemonKilled, 6, "kill -9 of the daemon"),
    (Fault::BothKilled, 2, "kill -9 of the Podman service and the daemon; the daemon is restarted first"),
    (Fault::ConfigurationWiped, 8, "configuration and token file wiped"),
    (Fault::ContainerRemoved, 9, "container removed by hand"),
    (Fault::EverythingButWorkRemoved, 3, "container and configuration volume removed by hand"),
    (Fault::StartedByHand, 8, "container started by hand"),
    (Fault::StoppedByHand, 5, "container stopped by hand"),
    (Fault::UnknownAdded, 4, "container of an unknown workspace added"),
    (Fault::StrayAdded, 4, "second container of a workspace added"),
];

/// Effects of the faults on the expected final state.
#[derive(Default)]
pub(super) struct Effects {
    /// Workspaces with a wiped config volume, by id, with their incarnation after that.
    pub(super) wiped: BTreeMap<String, u64>,
    /// Names of workspaces with a deleted work volume.
    pub(super) lost: Vec<String>,
    /// Unexpected results.
    pub(super) broken: Vec<String>,
}

/// A container with a name of ours.
struct Target {
    id: String,
    name: String,
    /// Name of its workspace.
    workspace_name: String,
    workspace: String,
    pid: i32,
    runs: bool,
}

/// Injects the faults.
pub(super) struct Chaos<'a> {
    site: &'a mut Site,
    service: &'a mut Service,
    operator: Operator,
    record: &'a Record,
    rng: Rng,
    instance: String,
    effects: Effects,
    /// Number of added containers.
    added: u32,
}

impl<'a> Chaos<'a> {
    pub(super) fn new(site: &'a mut Site, service: &'a mut Service, record: &'a Record, rng: Rng) -> Self {
        let (operator, instance) = (Operator::of(site), site.instance());
        Self { site, service, operator, record, rng, instance, effects: Effects::default(), added: 0 }
    }

    /// Injects faults for the given time; at the end, the Podman service and the daemon run.
    pub(super) fn inject(mut self, lasts: Duration) -> Effects {
        let began = Instant::now();
        let mut losers = LOSERS.iter();
        let mut next_at = lasts / 3;
        let mut faults = 0;
        while began.elapsed() < lasts || (faults < FEWEST_FAULTS && began.elapsed() < lasts * LONGEST) {
            if began.elapsed() >= next_at
                && let Some(name) = losers.next()
            {
                self.lose_work(name);
                next_at += lasts / 3;
            }
            faults += u64::from(self.one_fault());
            pause(&mut self.rng, BETWEEN_FAULTS);
        }
        for name in losers {
            self.lose_work(name);
        }
        self.record.over.store(true, Ordering::Release);
        self.effects
    }

    /// Injects one fault; `false` if there was no target.
    fn one_fault(&mut self) -> bool {
        let weights: usize = FAULTS.iter().map(|(_, weight, _)| weight).sum();
        let mut at = self.rng.below(weights);
        let chosen = FAULTS.iter().find(|(_, weight, _)| {
            let here = at < *weight;
            at = at.saturating_sub(*weight);
            here
        });
        let (fault, _, what) = *chosen.expect("the weights add up");
        let to = match fault {
            Fault::ServiceKilled => Some(self.kill_service()),
            Fault::DaemonKilled => self.kill_daemon(),
            Fault::BothKilled => self.kill_both(),
            Fault::UnknownAdded => Some(self.add_container(None)),
            Fault::ProcessKilled
            | Fault::PodmanKilled
            | Fault::ConmonKilled
            | Fault::ConmonAndProcessKilled
            | Fault::ConfigurationWiped
            | Fault::ContainerRemoved
            | Fault::EverythingButWorkRemoved
            | Fault::StartedByHand
            | Fault::StoppedByHand
            | Fault::StrayAdded => self.affect_container(fault),
        };
        let Some(to) = to else { return false };
        self.record.count(what);
        self.record.print(format!("chaos: {what}: {to}"));
        true
    }

    /// Containers with names of ours, in arbitrary order.
    fn targets(&self) -> Vec<Target> {
        let filter = format!("label=ostler.instance={}", self.instance);
        // Containers are created and removed during a listing, which may fail on one that was just removed.
        let listed =
            podman().args(["ps", "--all", "--no-trunc", "--format", "json", "--filter", &filter]).output();
        let listed: Vec<Value> =
            serde_json::from_slice(&listed.expect("podman runs").stdout).unwrap_or_default();
        let workspace_name = |container: &Value| {
            let spec = container["Labels"]["ostler.spec"].as_str().unwrap_or_default();
            text(&serde_json::from_str::<Value>(spec).unwrap_or_default()["name"])
        };
        let target = |container: &Value| Target {
            workspace_name: workspace_name(container),
            id: text(&container["Id"]),
            name: text(&container["Names"][0]),
            workspace: text(&container["Labels"]["ostler.workspace"]),
            pid: container["Pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).unwrap_or_default(),
            runs: container["State"] == "running",
        };
        let mut targets: Vec<_> = listed.iter().map(target).collect();
        // Foreign containers are never touched, not even here.
        targets.retain(|target| target.name.starts_with(&format!("ostler-{}-", target.workspace)));
        targets
    }

    /// Injects a fault into one container; returns its name if there was a target.
    fn affect_container(&mut self, fault: Fault) -> Option<String> {
        let fits = |target: &&Target| match fault {
            Fault::StartedByHand => !target.runs,
            Fault::ContainerRemoved | Fault::EverythingButWorkRemoved => true,
            Fault::ProcessKilled
            | Fault::PodmanKilled
            | Fault::ConmonKilled
            | Fault::ConmonAndProcessKilled
            | Fault::ServiceKilled
            | Fault::DaemonKilled
            | Fault::BothKilled
            | Fault::ConfigurationWiped
            | Fault::StoppedByHand
            | Fault::UnknownAdded
            | Fault::StrayAdded => target.runs,
        };
        let targets = self.targets();
        let fitting: Vec<_> = targets.iter().filter(fits).collect();
        let target = *any(&mut self.rng, &fitting)?;
        let (id, name) = (target.id.as_str(), format!("{} of `{}`", target.name, target.workspace_name));
        let done = match fault {
            Fault::ProcessKilled => kill_of(target.pid, id),
            Fault::ConmonKilled => kill_conmon(target),
            Fault::ConmonAndProcessKilled => kill_conmon(target) && kill_of(target.pid, id),
            Fault::PodmanKilled => try_podman(&["kill", "--signal=KILL", id]),
            Fault::ConfigurationWiped => self.wipe(&target.workspace),
            Fault::ContainerRemoved => try_podman(&["rm", "--force", "--time=0", id]),
            Fault::EverythingButWorkRemoved => {
                let volume = format!("ostler-{}-config", target.workspace);
                try_podman(&["rm", "--force", "--time=0", id]) && try_podman(&["volume", "rm", &volume])
            }
            Fault::StartedByHand => try_podman(&["start", id]),
            Fault::StoppedByHand => try_podman(&["stop", "--time=1", id]),
            Fault::StrayAdded => return Some(self.add_container(Some(&target.workspace))),
            Fault::ServiceKilled | Fault::DaemonKilled | Fault::BothKilled | Fault::UnknownAdded => false,
        };
        done.then_some(name)
    }

    /// Deletes everything in a config volume, including the token.
    fn wipe(&mut self, workspace: &str) -> bool {
        let volume = format!("ostler-{workspace}-config");
        if !has_volume(&volume) {
            return false;
        }
        let Ok(files) = fs::read_dir(directory_of(&volume)) else { return false };
        for file in files.flatten() {
            // An error is ignored: another thread may have deleted the file, or a start may be writing it.
            let _gone = fs::remove_file(file.path());
        }
        // The incarnation is read after the deletion, so a start whose token file was deleted had at most this one.
        let row = rows(&self.operator, false).into_iter().find(|row| text(&row["id"]) == workspace);
        let incarnation = row.and_then(|row| row["incarnation"].as_u64()).unwrap_or(u64::MAX);
        self.record.print(format!("chaos: {volume} is wiped; the incarnation is {incarnation} at most"));
        self.effects.wiped.insert(workspace.to_owned(), incarnation);
        true
    }

    fn kill_service(&mut self) -> String {
        self.service.kill();
        pause(&mut self.rng, 600);
        self.service.start_again();
        "and restarted".into()
    }

    fn kill_daemon(&mut self) -> Option<String> {
        self.site.kill();
        self.serve()
    }

    fn kill_both(&mut self) -> Option<String> {
        self.service.kill();
        self.site.kill();
        let served = self.serve();
        self.service.start_again();
        served
    }

    fn serve(&mut self) -> Option<String> {
        match self.site.try_serve() {
            Ok(()) => Some("and restarted".into()),
            Err(error) => {
                self.effects
                    .broken
                    .push(format!("the daemon did not start again after it was killed: {error}"));
                self.site.serve();
                None
            }
        }
    }

    /// Adds a container with a name of ours: of an unknown workspace, or a second one of a workspace.
    fn add_container(&mut self, workspace: Option<&str>) -> String {
        self.added += 1;
        let unknown = SystemEntropy.uuid().to_string();
        let workspace = workspace.unwrap_or(&unknown);
        let name = format!("ostler-{workspace}-{}", 1_000_000 + self.added);
        foreign::run("run", &name, &foreign::labels(&self.instance, workspace));
        name
    }

    /// Deletes a work volume, and the containers that prevent that.
    fn lose_work(&mut self, name: &str) {
        let row = rows(&self.operator, false).into_iter().find(|row| row["name"] == name);
        let id = text(&row.expect("no operator removes this workspace")["id"]);
        let volume = format!("ostler-{id}-work");
        until("the work volume is deleted", || {
            // Stopped containers and those in the trash mount it too.
            let mounting = podman()
                .args(["ps", "--all", "--quiet", "--no-trunc", "--filter"])
                .arg(format!("volume={volume}"))
                .output();
            let mounting = mounting.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
            for container in mounting.unwrap_or_default().lines() {
                try_podman(&["rm", "--force", "--time=0", container]);
            }
            (try_podman(&["volume", "rm", &volume]) || !has_volume(&volume)).then_some(())
        });
        self.record.count("work volume deleted by hand");
        self.record.print(format!("chaos: the work volume of {name} is deleted"));
        self.effects.lost.push(name.to_owned());
    }
}

fn try_podman(arguments: &[&str]) -> bool {
    podman().args(arguments).output().is_ok_and(|output| output.status.success())
}

/// Kills a process if it still belongs to that container; process ids are reused.
fn kill_of(pid: i32, container: &str) -> bool {
    let Some(process) = Pid::from_raw(pid) else { return false };
    let about =
        |file: &str| fs::read_to_string(PathBuf::from(format!("/proc/{pid}/{file}"))).unwrap_or_default();
    let is_its = about("cgroup").contains(container) || about("cmdline").contains(container);
    is_its && kill_process(process, Signal::KILL).is_ok()
}

/// Kills the container's conmon: the parent of its first process, with the container's id in its arguments.
fn kill_conmon(target: &Target) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", target.pid)).unwrap_or_default();
    let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)).map(str::parse);
    matches!(parent, Some(Ok(parent)) if parent > 1 && kill_of(parent, &target.id))
}
