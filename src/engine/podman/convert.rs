//! Conversion between ostler's types and Podman's JSON. These functions do no IO, so every rule is tested without
//! Podman.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    time::Duration,
};

use podman_api::models::{ListContainer, Volume};
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::{ContainerSpec, Environment, ExecRequest, InspectedContainer, Mount, MountSource};
use super::states;
use crate::domain::{
    ids::ContainerId,
    observed::{ContainerState, ObservedContainer, ObservedVolume},
    runtime::Limits,
    time::Timestamp,
};

/// Scheduler period for processor limits, in microseconds: the kernel's default.
const CPU_PERIOD_US: u32 = 100_000;
/// Minimum processor quota that the kernel accepts, in microseconds.
const CPU_QUOTA_MIN_US: f64 = 1_000.0;

/// Log driver of every container.
const LOG_DRIVER: &str = "k8s-file";

/// Whether the labels contain this key, with this value if one is given.
pub(super) fn labelled(labels: &BTreeMap<String, String>, key: &str, value: Option<&str>) -> bool {
    labels.get(key).is_some_and(|found| value.is_none_or(|wanted| found == wanted))
}

fn sorted(labels: Option<HashMap<String, String>>) -> BTreeMap<String, String> {
    labels.unwrap_or_default().into_iter().collect()
}

/// Converts a container in a listing. An unreadable entry is an error and is never skipped: an incomplete listing must
/// not look complete.
pub(super) fn observed_container(entry: ListContainer) -> Result<ObservedContainer, String> {
    let id = entry.id.unwrap_or_default();
    let id = ContainerId::try_from(id).map_err(|error| format!("an entry without a valid id: {error}"))?;
    let name = entry.names.unwrap_or_default().into_iter().next();
    let name = name.ok_or_else(|| format!("container {} has no name", id.short()))?;
    let state = states::read(entry.state.as_deref().unwrap_or_default());
    Ok(ObservedContainer {
        name: name.trim_start_matches('/').to_owned(),
        labels: sorted(entry.labels),
        state,
        exit_code: entry.exit_code.filter(|_| state == ContainerState::Exited),
        started_at: entry.started_at.filter(|s| *s > 0).map(|s| Timestamp(s.saturating_mul(1000))),
        networks: entry.networks.unwrap_or_default(),
        id,
    })
}

/// Converts a volume in a listing.
pub(super) fn observed_volume(volume: Volume) -> ObservedVolume {
    ObservedVolume { name: volume.name, labels: volume.labels.into_iter().collect() }
}

/// The parts of a container's inspection that ostler reads.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Inspection {
    id: ContainerId,
    name: String,
    state: InspectionState,
    config: InspectionConfig,
    #[serde(default)]
    mounts: Option<Vec<InspectionMount>>,
    host_config: InspectionHost,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectionState {
    status: String,
    #[serde(default)]
    exit_code: i32,
    #[serde(default, rename = "OOMKilled")]
    oom_killed: bool,
    #[serde(default)]
    pid: Option<i64>,
    #[serde(default)]
    conmon_pid: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectionConfig {
    #[serde(default)]
    env: Option<Vec<String>>,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectionMount {
    #[serde(rename = "Type")]
    kind: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    source: PathBuf,
    #[serde(default)]
    destination: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectionHost {
    #[serde(default)]
    port_bindings: Option<BTreeMap<String, Option<Vec<PortBinding>>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PortBinding {
    #[serde(default)]
    host_ip: String,
    #[serde(default)]
    host_port: String,
}

/// The parts of a container's inspection that are read before its log.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct LogInspection {
    state: InspectionState,
    host_config: LogHost,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct LogHost {
    #[serde(default)]
    log_config: LogConfig,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct LogConfig {
    #[serde(rename = "Type")]
    driver: String,
    path: PathBuf,
}

/// Location of a container's log, and the process that writes it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LogSource {
    /// Path of the file; `None` for log drivers without such a file.
    pub(super) path: Option<PathBuf>,
    /// Whether more output may be written.
    pub(super) may_grow: bool,
    /// Process id of conmon.
    pub(super) conmon: Option<i64>,
}

impl From<LogInspection> for LogSource {
    fn from(LogInspection { state: of, host_config: LogHost { log_config } }: LogInspection) -> Self {
        let LogConfig { driver, path } = log_config;
        Self {
            // Podman treats `json-file` as the same driver.
            path: matches!(driver.as_str(), LOG_DRIVER | "json-file").then_some(path),
            may_grow: states::read(&of.status).may_run(),
            conmon: of.conmon_pid.filter(|process| *process > 0),
        }
    }
}

/// Converts an inspection; also returns the process ids of the container and of conmon.
pub(super) fn inspected(inspection: Inspection) -> (InspectedContainer, Option<i64>, Option<i64>) {
    let Inspection {
        id,
        name,
        state: InspectionState { status, exit_code, oom_killed, pid, conmon_pid },
        config,
        mounts,
        host_config,
    } = inspection;
    let state = states::read(&status);
    let seen = InspectedContainer {
        id,
        name: name.trim_start_matches('/').to_owned(),
        labels: config.labels.unwrap_or_default(),
        state,
        exit_code: (state == ContainerState::Exited).then_some(exit_code),
        out_of_memory: oom_killed,
        env: Environment(config.env.unwrap_or_default().iter().map(|pair| variable(pair)).collect()),
        volumes: mounts.into_iter().flatten().filter(|m| m.kind == "volume").map(|m| m.name).collect(),
        host_port: loopback_port(host_config.port_bindings.unwrap_or_default()),
        exit_lost: false,
    };
    (seen, pid, conmon_pid)
}

/// Name and directory of the volume that a container mounts at exactly this path.
pub(super) fn volume_at(inspection: Inspection, target: &str) -> Option<(String, PathBuf)> {
    let mut mounts = inspection.mounts.into_iter().flatten();
    let mount = mounts.find(|mount| mount.destination == target && mount.kind == "volume")?;
    Some((mount.name, mount.source))
}

fn variable(pair: &str) -> (String, String) {
    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
    (name.to_owned(), value.to_owned())
}

fn loopback_port(bindings: BTreeMap<String, Option<Vec<PortBinding>>>) -> Option<u16> {
    let mut published = bindings.into_values().flatten().flatten();
    published.find(|binding| binding.host_ip == "127.0.0.1")?.host_port.parse().ok()
}

/// Body of a create request.
///
/// Built by hand: podman-api misspells `no_new_privileges`, and Podman silently ignores an unknown key. A tmpfs gets
/// its options here because the API, unlike the command line, adds none.
pub(super) fn create_body(spec: &ContainerSpec) -> Value {
    let ContainerSpec {
        name,
        image,
        command,
        labels,
        env,
        user,
        mounts,
        publish,
        network,
        aliases,
        hostname,
        limits,
        read_only_root,
        privileged,
        stop_grace,
        log_bytes,
    } = spec;
    let mut body = json!({
        "name": name,
        "image": image,
        "labels": labels,
        "env": env.0,
        "user": user.to_string(),
        "mounts": mounts.iter().filter_map(directory_mount).collect::<Vec<_>>(),
        "volumes": mounts.iter().filter_map(volume_mount).collect::<Vec<_>>(),
        "portmappings": publish.iter().map(|p| port_mapping(*p)).collect::<Vec<_>>(),
        "netns": { "nsmode": "bridge" },
        "Networks": { network.as_str(): { "aliases": aliases } },
        "hostname": hostname,
        "resource_limits": resource_limits(*limits),
        "read_only_filesystem": read_only_root,
        // ostler restarts containers under its own rules; a second restart mechanism would interfere.
        "restart_policy": "no",
        // A process 1 without signal handlers ignores SIGTERM, so that every stop would last for the whole grace
        // period.
        "init": true,
        "stop_timeout": whole_seconds(*stop_grace),
        // Only this driver has a size limit for each container, and a file that can be read without Podman.
        "log_configuration": { "driver": LOG_DRIVER, "size": log_bytes },
    });
    if !command.is_empty() {
        body["command"] = json!(command);
    }
    if *privileged {
        body["privileged"] = json!(true);
    } else {
        body["cap_drop"] = json!(["ALL"]);
        body["no_new_privileges"] = json!(true);
    }
    body
}

fn directory_mount(mount: &Mount) -> Option<Value> {
    let Mount { source, target, read_only } = mount;
    let access = access(*read_only);
    match source {
        MountSource::Volume(_) => None,
        MountSource::HostDirectory(path) => Some(json!({
            "type": "bind", "source": path, "destination": target, "options": ["rbind", "rprivate", access],
        })),
        MountSource::Tmpfs => Some(json!({
            "type": "tmpfs", "source": "tmpfs", "destination": target,
            "options": ["nosuid", "nodev", "mode=1777", access],
        })),
    }
}

fn volume_mount(mount: &Mount) -> Option<Value> {
    match &mount.source {
        MountSource::Volume(name) => {
            Some(json!({ "Name": name, "Dest": mount.target, "Options": [access(mount.read_only)] }))
        }
        MountSource::HostDirectory(_) | MountSource::Tmpfs => None,
    }
}

fn access(read_only: bool) -> &'static str {
    if read_only { "ro" } else { "rw" }
}

fn port_mapping((inside, outside): (u16, u16)) -> Value {
    json!({ "container_port": inside, "host_port": outside, "host_ip": "127.0.0.1", "protocol": "tcp" })
}

/// Podman's `swap` limits the sum of memory and swap. It equals the memory limit, so that no swap can be used.
fn resource_limits(limits: Limits) -> Value {
    let Limits { memory_bytes, cpus, pids } = limits;
    json!({
        "memory": { "limit": memory_bytes, "swap": memory_bytes },
        "cpu": { "period": CPU_PERIOD_US, "quota": cpu_quota(cpus) },
        "pids": { "limit": pids },
    })
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a float cast saturates, and no machine has that many cores"
)]
fn cpu_quota(cpus: f64) -> i64 {
    (cpus * f64::from(CPU_PERIOD_US)).max(CPU_QUOTA_MIN_US).round() as i64
}

/// Whole seconds, rounded up: a grace period of half a second must not become zero.
pub(super) fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

/// Options of a command to run in a container.
pub(super) fn exec_options(request: &ExecRequest) -> podman_api::opts::ExecCreateOpts {
    let ExecRequest { command, tty, stdin, env, user } = request;
    let options = podman_api::opts::ExecCreateOpts::builder()
        .command(command)
        .tty(*tty)
        .attach_stdin(*stdin)
        .attach_stdout(true)
        .attach_stderr(true)
        .env(env);
    match user {
        Some(user) => options.user(podman_api::opts::UserOpt::User(user.clone())).build(),
        None => options.build(),
    }
}

/// Container limits that Podman drops with only a warning: all of them in rootless mode on cgroup v1, those of missing
/// controllers on v2.
pub(super) fn ignored_limits(rootless: bool, version: &str, controllers: &[String]) -> Vec<&'static str> {
    let limits = [("memory", "memory"), ("cpu", "cpu"), ("pids", "processes")];
    let holds = |controller: &str| match version {
        "v1" => !rootless,
        "v2" => controllers.iter().any(|one| one == controller),
        // For an unknown version, ostler reports no limit as ignored.
        _ => true,
    };
    limits.into_iter().filter(|(controller, _)| !holds(controller)).map(|(_, limit)| limit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_limits_depend_on_rootless_mode_and_cgroup_version() {
        let some = ["memory".to_owned(), "pids".to_owned()];
        assert_eq!(ignored_limits(true, "v1", &some), ["memory", "cpu", "processes"]);
        assert!(ignored_limits(false, "v1", &some).is_empty());
        assert_eq!(ignored_limits(true, "v2", &some), ["cpu"]);
        assert!(ignored_limits(true, "", &[]).is_empty());
    }
    use crate::domain::runtime::User;

    fn spec() -> ContainerSpec {
        ContainerSpec {
            name: "n".into(),
            image: "i".into(),
            command: Vec::new(),
            labels: BTreeMap::new(),
            env: Environment::default(),
            user: User { uid: 7, gid: 8 },
            mounts: Vec::new(),
            publish: None,
            network: "net".into(),
            aliases: vec!["alias".into()],
            hostname: "host".into(),
            limits: Limits { memory_bytes: 1 << 26, cpus: 0.5, pids: 32 },
            read_only_root: false,
            privileged: false,
            stop_grace: Duration::from_millis(1500),
            log_bytes: 1 << 20,
        }
    }

    fn entry(id: &str, state: &str) -> ListContainer {
        let full = json!({ "Id": id, "Names": ["a"], "State": state, "ExitCode": 3, "StartedAt": 5 });
        serde_json::from_value(full).unwrap()
    }

    #[test]
    fn container_is_confined_unless_it_is_privileged() {
        let body = create_body(&spec());
        assert_eq!((&body["cap_drop"], &body["no_new_privileges"]), (&json!(["ALL"]), &json!(true)));
        assert!(body.get("privileged").is_none());
        let body = create_body(&ContainerSpec { privileged: true, ..spec() });
        assert_eq!(body["privileged"], json!(true));
        assert!(body.get("cap_drop").is_none() && body.get("no_new_privileges").is_none());
    }

    #[test]
    fn empty_command_is_left_out_of_the_create_request() {
        assert!(create_body(&spec()).get("command").is_none());
        let body = create_body(&ContainerSpec { command: vec!["sleep".into(), "9".into()], ..spec() });
        assert_eq!(body["command"], json!(["sleep", "9"]));
    }

    #[test]
    fn resource_limits_match_spec_with_a_minimum_cpu_quota() {
        let body = create_body(&spec());
        assert_eq!(body["resource_limits"]["cpu"], json!({ "period": 100_000, "quota": 50_000 }));
        assert_eq!(body["resource_limits"]["memory"], json!({ "limit": 1 << 26, "swap": 1 << 26 }));
        assert_eq!(cpu_quota(0.0), 1000);
        assert_eq!(body["stop_timeout"], json!(2));
    }

    #[test]
    fn every_container_has_a_log_limit() {
        let body = create_body(&spec());
        assert_eq!(body["log_configuration"], json!({ "driver": "k8s-file", "size": 1 << 20 }));
    }

    #[test]
    fn every_mount_appears_once_in_the_create_request() {
        let mounts =
            [MountSource::Volume("v".into()), MountSource::HostDirectory("/host".into()), MountSource::Tmpfs]
                .map(|source| Mount { source, target: "/t".into(), read_only: true });
        let body = create_body(&ContainerSpec { mounts: mounts.into(), ..spec() });
        assert_eq!(body["volumes"], json!([{ "Name": "v", "Dest": "/t", "Options": ["ro"] }]));
        let kinds = body["mounts"].as_array().unwrap().iter().map(|m| m["type"].clone()).collect::<Vec<_>>();
        assert_eq!(kinds, ["bind", "tmpfs"]);
    }

    #[test]
    fn exit_code_is_reported_only_for_an_exited_container() {
        let id = "a".repeat(64);
        let exited = observed_container(entry(&id, "exited")).unwrap();
        assert_eq!((exited.exit_code, exited.started_at), (Some(3), Some(Timestamp(5000))));
        assert_eq!(observed_container(entry(&id, "running")).unwrap().exit_code, None);
    }

    #[test]
    fn unreadable_container_entry_is_an_error() {
        assert!(observed_container(entry("short", "running")).is_err());
        let nameless = ListContainer { names: Some(Vec::new()), ..entry(&"a".repeat(64), "running") };
        assert!(observed_container(nameless).is_err());
    }

    #[test]
    fn label_filter_matches_key_or_key_and_value() {
        let labels = BTreeMap::from([("k".to_owned(), "v".to_owned())]);
        assert!(labelled(&labels, "k", None) && labelled(&labels, "k", Some("v")));
        assert!(!labelled(&labels, "k", Some("w")) && !labelled(&labels, "other", None));
    }

    #[test]
    fn inspection_reads_environment_volumes_and_host_port() {
        let inspection = json!({
            "Id": "a".repeat(64), "Name": "n",
            "State": { "Status": "exited", "ExitCode": 137, "OOMKilled": true, "Pid": 7, "ConmonPid": 6 },
            "Config": { "Env": ["A=1=2", "B"], "Labels": { "k": "v" } },
            "Mounts": [{ "Type": "volume", "Name": "v" }, { "Type": "bind" }],
            "HostConfig": { "PortBindings": { "8000/tcp": [{ "HostIp": "127.0.0.1", "HostPort": "9000" }] } },
        });
        let (found, process, conmon) = inspected(serde_json::from_value(inspection).unwrap());
        assert_eq!((found.exit_code, found.out_of_memory, found.host_port), (Some(137), true, Some(9000)));
        assert_eq!(found.env.0, BTreeMap::from([("A".into(), "1=2".into()), ("B".into(), String::new())]));
        assert_eq!(found.volumes, ["v"]);
        assert_eq!(found.labels, BTreeMap::from([("k".into(), "v".into())]));
        assert_eq!((process, conmon), (Some(7), Some(6)));
    }
}
