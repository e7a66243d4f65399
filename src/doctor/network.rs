//! Checks whether workspaces reach ostler. This cannot be determined from the host, so the request is sent from inside
//! a workspace.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use sha2::{Digest as _, Sha256};
use tokio::io::AsyncReadExt as _;

use super::{Doctor, fail, ok, warn};
use crate::{
    api::{doctor::Check, health::Health},
    domain::{
        address::uncovered,
        ids::{ContainerId, InstanceId, WorkspaceId},
        naming::{AGENT_PORT, LABEL_INSTANCE, WorkspaceName, instance_name, network_name},
        status::Status,
        time::Timestamp,
        token::redact_tokens,
        workspace::Kind,
    },
    engine::{EngineResult, ErrorKind, ExecRequest},
    runtime::clock::{Boxed, within},
    store::{Described, Scope, StoreResult},
};

/// Time limit of the requests from inside containers, for all containers together. The HTTP client in a container stops
/// after 5 s.
const DEADLINE: Duration = Duration::from_secs(10);

/// A heartbeat that is not older than this also proves that a workspace reaches ostler.
const RECENT_HEARTBEAT: Duration = Duration::from_mins(2);

/// Maximum number of bytes of output that are read from a container, so that a container cannot fill the daemon's
/// memory.
const OUTPUT_MAX_BYTES: u64 = 16 << 10;

/// How many characters of that output are shown.
const OUTPUT_MAX_CHARS: usize = 200;

/// Maximum number of addresses that one check names.
const MOST_ADDRESSES: usize = 4;

/// Shown if the output is empty.
const NO_ANSWER: &str = "no answer";

const NO_SHELL: &str = "/bin/sh could not be run in any running workspace";

/// Script that requests `/health` from inside a container, with the first of curl, wget and python3 that the container
/// has. Not every wget has an option for a time limit, so wget runs under `timeout` if the container has a `timeout`
/// that accepts `timeout SECONDS COMMAND`.
const ASK: &str = r#"url=${PLATFORM_URL:-}/health limit=
exec 2>&1
echo "asking $url"
if timeout 5 true 2>/dev/null; then limit="timeout 5"; fi
if command -v curl >/dev/null; then curl -sSf -m 5 "$url"
elif command -v wget >/dev/null; then $limit wget -q -O - "$url"
elif command -v python3 >/dev/null; then
    python3 -c 'import sys, urllib.request as r; print(r.urlopen(sys.argv[1], timeout=5).read(999).decode())' "$url"
else echo "no tool"; fi"#;

/// How workspaces reach this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// The addresses: the gateway of each workspace's network or, with rootless Podman, this host's own address.
    pub addresses: BTreeSet<IpAddr>,
    /// Whether packets from other machines reach these addresses too. If the configuration names no addresses, ostler
    /// closes connections that do not come from this host.
    pub reachable_from_lan: bool,
    /// Workspaces whose container was given an address that this host no longer has.
    pub outdated: BTreeSet<WorkspaceId>,
    /// Whether Podman runs rootless.
    pub rootless: bool,
}

/// Asks the engine for a [`Reach`]; the error is the reason why it is not known.
pub type AskReach = Arc<dyn Fn() -> Boxed<Result<Reach, String>> + Send + Sync>;

/// Returns the addresses that are bound for workspaces.
pub type AskBound = Arc<dyn Fn() -> Boxed<BTreeSet<IpAddr>> + Send + Sync>;

/// Where the daemon listens for agents, and which address agents are given.
#[derive(Clone)]
pub struct Network {
    /// The addresses in the configuration; empty means loopback and [`Reach::addresses`].
    pub listen: Vec<IpAddr>,
    /// The port of every listener for agents.
    pub port: u16,
    /// Description of the URL that agents are given, for display.
    pub advertised_url: String,
    /// Whether agents are given [`Self::advertised_url`] instead of an address of [`Reach`].
    pub is_url_configured: bool,
    /// Whether containers created from now on get a network of their own.
    pub isolate: bool,
    /// `Ok` if packets between those networks are dropped, otherwise the reason why they are not.
    pub packets: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
    /// When this process started to listen. An earlier heartbeat does not prove that workspaces reach this process.
    pub since: Timestamp,
    /// The addresses that are bound for workspaces, besides those in the configuration and loopback.
    pub bound: AskBound,
    /// The addresses at which workspaces reach this host.
    pub reach: AskReach,
}

/// A container and its networks.
#[derive(Clone, Debug)]
struct Attached {
    /// The workspace's name, or the container's if it belongs to no row.
    name: String,
    /// The name of the workspace's own network; `None` if the container belongs to no row.
    own: Option<String>,
    networks: Vec<String>,
}

/// Result of the request from inside a container.
#[derive(Debug, PartialEq, Eq)]
enum InsideAnswer {
    /// This daemon answered at this URL.
    Ostler(String),
    /// This daemon did not answer: the URL, and the output of the request.
    Otherwise(String, String),
    /// The request could not be made, for this reason.
    NotAsked(&'static str),
}

impl Doctor {
    /// Checks whether workspaces reach ostler, where it listens, and which packets pass between workspaces.
    pub(super) async fn network(&self) -> StoreResult<Vec<Check>> {
        let network = &self.0.network;
        let rows = self.0.store.describe_all(Scope::Live).await?;
        let (reach, reached, not_listening, attached, bound) = tokio::join!(
            within(&*self.0.clock, DEADLINE, (network.reach)()),
            self.reached(&rows),
            self.not_listening(&rows),
            self.attached(&rows),
            (network.bound)(),
        );
        let reach = reach.unwrap_or_else(|| Err("the engine does not answer".into()));
        let proof = if reached.verdict == "ok" && self.newest_heartbeat(&rows).is_some() {
            Proof::Reached
        } else if rows.iter().any(|one| ask_rank(one).is_some()) {
            Proof::Missing
        } else {
            Proof::NoneRunning
        };
        let mut checks = vec![reached, listen_check(network, &reach, &bound, proof)];
        checks.extend(reach.as_ref().ok().and_then(|reach| outdated_addresses(&rows, &reach.outdated)));
        checks.extend(not_listening);
        let rootless = reach.is_ok_and(|reach| reach.rootless);
        checks.push(between(network, rootless, self.0.instance, &attached));
        Ok(checks)
    }

    /// Lists this instance's containers with the networks that they are attached to in the engine. The value of
    /// `network.isolate` does not answer this: it applies only to containers created after it was set.
    async fn attached(&self, rows: &[Described]) -> Result<Vec<Attached>, String> {
        let instance = self.0.instance.to_string();
        let listed = self.0.engine.list_containers(LABEL_INSTANCE, Some(&instance)).await;
        let listed = listed.map_err(|error| error.to_string())?;
        let attached = listed.into_iter().filter_map(|container| {
            let row = rows.iter().find(|one| one.row.container.as_ref() == Some(&container.id));
            let (name, own) = match row {
                Some(one) => (one.row.name.to_string(), Some(network_name(one.row.id))),
                // A running container without a row can also share a network with others.
                None if container.state.may_run() => (format!("container {}", container.name), None),
                None => return None,
            };
            Some(Attached { name, own, networks: container.networks })
        });
        let mut attached: Vec<_> = attached.collect();
        attached.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(attached)
    }

    async fn reached(&self, rows: &[Described]) -> Check {
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

    fn newest_heartbeat<'a>(&self, rows: &'a [Described]) -> Option<(Duration, &'a WorkspaceName)> {
        newest_heartbeat(rows, self.0.clock.now(), self.0.network.since)
    }

    /// Warns of agents that send heartbeats, but accept no connections; `None` if there are none.
    async fn not_listening(&self, rows: &[Described]) -> Option<Check> {
        let now = self.0.clock.now();
        let mut found = Vec::new();
        for one in rows {
            let (Some(container), Some(port)) = (&one.row.container, one.row.host_port) else { continue };
            let is_up = matches!(one.row.status, Status::Online | Status::Degraded);
            let has_heartbeat =
                one.vitals.last_heartbeat_at.is_some_and(|at| now.since(at) <= RECENT_HEARTBEAT);
            if !(is_up && has_heartbeat) {
                continue;
            }
            match self.0.engine.sockets(container, AGENT_PORT, port).await {
                Ok(Some(sockets)) if !sockets.listens => found.push(one.row.name.to_string()),
                // Each further call could run into the same deadline.
                Err(error) if error.kind == ErrorKind::TimedOut => break,
                Ok(_) | Err(_) => {}
            }
        }
        (!found.is_empty()).then(|| {
            warn(
                "ports",
                format!("sending heartbeats, but not accepting connections on port {AGENT_PORT}: {}", found.join(", ")),
                format!(
                    "messages to these agents fail. An agent's server must listen on 0.0.0.0:{AGENT_PORT} (127.0.0.1 is \
                     not reachable from outside the container); `ostler logs NAME` may show the cause"
                ),
            )
        })
    }

    /// Sends a request to ostler from inside a workspace. Tries the workspaces in `running` in order until one gives a
    /// result.
    ///
    /// # Errors
    /// The reason of the last attempt, if no workspace gave a result.
    async fn ask_one(&self, rows: &[Described], running: &[&Described]) -> Result<Check, &'static str> {
        let mut why = "no workspace runs";
        for one in running {
            let Some(container) = &one.row.container else { continue };
            let answer = match self.run_inside(container).await {
                Ok(output) => parse_inside_answer(&output, &registry_mark(self.0.instance)),
                // The container may exit at any moment, and not every image has a shell.
                Err(error) => {
                    tracing::debug!(%error, workspace = %one.row.name, "network check could not run in workspace");
                    InsideAnswer::NotAsked(NO_SHELL)
                }
            };
            match answer {
                InsideAnswer::Ostler(url) => {
                    return Ok(ok("network", format!("`{}` reaches ostler at {url}", one.row.name)));
                }
                // The output is empty if the exec stream broke off, which happens while other containers start and
                // stop. A heartbeat that arrived is stronger evidence than empty output.
                InsideAnswer::Otherwise(_, output)
                    if output == NO_ANSWER && self.newest_heartbeat(rows).is_some() =>
                {
                    why = "a request from inside a workspace returned nothing";
                }
                InsideAnswer::Otherwise(url, output) => {
                    let now = self.0.clock.now();
                    let output =
                        redact_tokens(&output, |digest| self.0.store.token_subject(digest, now).is_some());
                    return Ok(unreached(one.row.name.as_str(), &url, &output, self.0.network.port));
                }
                InsideAnswer::NotAsked(reason) => why = reason,
            }
        }
        Err(why)
    }

    async fn run_inside(&self, container: &ContainerId) -> EngineResult<Vec<u8>> {
        let request = ExecRequest {
            command: ["/bin/sh", "-c", ASK].map(str::to_owned).into(),
            tty: false,
            stdin: false,
            env: BTreeMap::new(),
            user: None,
        };
        let exec = self.0.engine.create_exec(container, &request).await?;
        let mut stream = self.0.engine.start_exec(&exec, false).await?.take(OUTPUT_MAX_BYTES);
        let mut output = Vec::new();
        // Output that arrived before the stream broke off is used as well.
        let _broken = stream.read_to_end(&mut output).await;
        Ok(output)
    }
}

/// Position of the workspace's status in the order in which running containers are asked; `None` if the workspace has
/// no running container.
fn ask_rank(one: &Described) -> Option<u8> {
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

/// Returns the mark by which `/health` identifies this registry.
///
/// It is a digest of the instance's id: the id itself is the label of every container, and `/health` is open to callers
/// without a token.
#[must_use]
pub fn registry_mark(instance: InstanceId) -> String {
    let digest = Sha256::digest(format!("ostler health {instance}"));
    let mark = digest.first_chunk().copied().map_or(0, u64::from_be_bytes);
    format!("{mark:016x}")
}

/// Returns stdout and stderr of a command in the order received, without the stream's frame headers.
fn unframed(mut stream: &[u8]) -> String {
    let mut bytes = Vec::new();
    while let Some(([_, _, _, _, length @ ..], rest)) = stream.split_first_chunk::<8>() {
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        let (part, behind) = rest.split_at(length.min(rest.len()));
        bytes.extend_from_slice(part);
        stream = behind;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn parse_inside_answer(stream: &[u8], own_mark: &str) -> InsideAnswer {
    let text = unframed(stream);
    let Some((url, answer)) = text.split_once('\n').and_then(|(first, rest)| {
        Some((first.strip_prefix("asking ")?.strip_suffix("/health")?.to_owned(), rest.trim()))
    }) else {
        return InsideAnswer::NotAsked(NO_SHELL);
    };
    if answer == "no tool" {
        return InsideAnswer::NotAsked("no running workspace has wget, curl or python3");
    }
    match serde_json::from_str::<Health>(answer) {
        Ok(health) if health.registry == own_mark => InsideAnswer::Ostler(url),
        Ok(_) => InsideAnswer::Otherwise(url, "the ostler daemon of another registry answered".into()),
        Err(_) => {
            // The last line of a Python traceback is the error.
            let last = answer.lines().next_back().unwrap_or(NO_ANSWER);
            InsideAnswer::Otherwise(url, last.chars().take(OUTPUT_MAX_CHARS).collect())
        }
    }
}

fn unreached(name: &str, url: &str, output: &str, port: u16) -> Check {
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
            format!("`{name}` reaches ostler: its last heartbeat was {} s ago ({why})", ago.as_secs()),
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

/// Warns of containers that use an address which this host had when they started and no longer has. `None` if there are
/// none.
fn outdated_addresses(rows: &[Described], outdated: &BTreeSet<WorkspaceId>) -> Option<Check> {
    let is_outdated = |one: &&Described| ask_rank(one).is_some() && outdated.contains(&one.row.id);
    let names: Vec<_> = rows.iter().filter(is_outdated).map(|one| one.row.name.as_str()).collect();
    (!names.is_empty()).then(|| {
        warn(
            "address",
            format!("this host's address has changed, and these workspaces still use the old one: {}", names.join(", ")),
            "`ostler restart NAME` gives a workspace the new address. Agents with readiness `heartbeat` are restarted \
             automatically after missing heartbeats",
        )
    })
}

/// Whether a running workspace has been proven to reach this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proof {
    Reached,
    Missing,
    NoneRunning,
}

/// Checks where ostler listens for agents, and whether other machines reach those addresses.
fn listen_check(
    network: &Network,
    reach: &Result<Reach, String>,
    bound: &BTreeSet<IpAddr>,
    proof: Proof,
) -> Check {
    let mut seen_by_others = Vec::new();
    let mut addresses = Vec::new();
    let mut note = |address: IpAddr, others: bool| {
        let address = SocketAddr::new(address, network.port).to_string();
        seen_by_others.extend(others.then(|| address.clone()));
        addresses.push(address);
    };
    if network.listen.is_empty() {
        note(IpAddr::from([127, 0, 0, 1]), false);
        for address in bound {
            note(*address, false);
        }
    }
    for address in &network.listen {
        let others = match reach {
            Ok(reach) if reach.addresses.contains(address) => reach.reachable_from_lan,
            Ok(_) | Err(_) => !address.is_loopback(),
        };
        note(*address, others);
    }
    let listed = addresses.len().min(MOST_ADDRESSES);
    let more = match addresses.len() - listed {
        0 => String::new(),
        more => format!(" and {more} more gateways of workspaces' networks"),
    };
    let listening = format!("listening for agents on {}{more}", addresses[..listed].join(" and "));
    if network.listen.is_empty()
        && let Some(check) = unserved(network, reach, bound, &listening, proof)
    {
        return check;
    }
    let mut found = listening;
    let mut advice = Vec::new();
    if let Some(cut_off) = cut_off(network, reach, proof == Proof::Reached) {
        found = format!("{found}; {cut_off}");
        advice.push(ADD_LISTEN.to_owned());
    }
    if !seen_by_others.is_empty() {
        found = format!("{found}; other machines may be able to reach {}", seen_by_others.join(" and "));
        let keeps_out = if reach.as_ref().is_ok_and(|reach| reach.rootless) {
            "to keep other machines out, add a firewall rule for the external interfaces, or remove `network.listen`: \
             ostler then closes their connections. Other addresses in `network.listen` would cut the workspaces off"
        } else {
            "to keep other machines out, add a firewall rule or set `network.listen`"
        };
        advice.push(format!("all requests but `/health` need a token; {keeps_out}"));
    } else if network.listen.is_empty() && reach.as_ref().is_ok_and(|reach| reach.reachable_from_lan) {
        found.push_str("; connections from other machines are closed");
    }
    if advice.is_empty() { ok("listen", found) } else { warn("listen", found, advice.join("\n")) }
}

const ADD_LISTEN: &str = "add the address to `network.listen`, remove `network.listen`, or set \
                          `network.platform_url` to the URL at which workspaces reach ostler";

/// Describes the addresses that workspaces are given, but `network.listen` does not include. `None` if there are none.
fn cut_off(network: &Network, reach: &Result<Reach, String>, is_reached: bool) -> Option<String> {
    let reach = reach.as_ref().ok().filter(|_| !network.is_url_configured)?;
    // Some versions of rootless Podman route workspaces to an address that is not in `reach`. If a workspace reached
    // ostler, `network.listen` includes the address that this version uses.
    if is_reached && reach.rootless {
        return None;
    }
    let missing = uncovered(&network.listen, &reach.addresses);
    (!missing.is_empty()).then(|| {
        let missing: Vec<_> = missing.iter().take(MOST_ADDRESSES).map(ToString::to_string).collect();
        format!(
            "workspaces use {}, which `network.listen` does not include, so their heartbeats do not arrive",
            missing.join(" and ")
        )
    })
}

/// Result of the listen check if the addresses at which workspaces reach this host are not known, or not all bound.
fn unserved(
    network: &Network,
    reach: &Result<Reach, String>,
    bound: &BTreeSet<IpAddr>,
    listening: &str,
    proof: Proof,
) -> Option<Check> {
    let port = network.port;
    let why = match reach {
        Ok(reach) => {
            let missing: Vec<_> = reach.addresses.difference(bound).collect();
            let named = missing.iter().take(MOST_ADDRESSES);
            let named: Vec<_> = named.map(|address| SocketAddr::new(**address, port).to_string()).collect();
            // Workspaces may need none of these addresses if `network.platform_url` gives them another one.
            let verdict: fn(&str, String, String) -> Check =
                if proof == Proof::Reached || network.is_url_configured { warn } else { fail };
            return (!missing.is_empty()).then(|| {
                verdict(
                    "listen",
                    format!(
                        "{listening}, but not on {} of {} addresses at which workspaces reach this host: {}",
                        missing.len(),
                        reach.addresses.len(),
                        named.join(" and ")
                    ),
                    format!(
                        "ostler tries again every 30 s, and its log shows the error. If another program uses port {port} \
                         there, set another port with `network.port`"
                    ),
                )
            });
        }
        Err(why) => why,
    };
    let advice = "ostler binds the address once the engine reports it; `network.listen` can set it instead";
    Some(match (bound.is_empty(), proof) {
        (false, Proof::Reached | Proof::NoneRunning) => ok(
            "listen",
            format!(
                "{listening}, the last known addresses of this host for workspaces; the current ones are not known: {why}"
            ),
        ),
        (false, Proof::Missing) => warn(
            "listen",
            format!(
                "{listening}, the last known addresses of this host for workspaces; the current ones are not known, and no \
                 running workspace has reached ostler yet: {why}"
            ),
            advice,
        ),
        (true, Proof::NoneRunning) => {
            warn("listen", format!("{listening} only, so workspaces cannot reach ostler yet: {why}"), advice)
        }
        (true, Proof::Reached) => ok(
            "listen",
            format!("{listening}; the address of this host for workspaces is not known at present: {why}"),
        ),
        (true, Proof::Missing) => fail(
            "listen",
            format!("{listening} only, and no running workspace is known to reach ostler: {why}"),
            advice,
        ),
    })
}

/// Checks which packets pass between workspaces, from the networks that their containers are attached to.
fn between(
    network: &Network,
    rootless: bool,
    instance: InstanceId,
    attached: &Result<Vec<Attached>, String>,
) -> Check {
    const TREE: &str = "the workspace tree controls discovery and messages";
    let attached = match attached {
        Ok(attached) => attached,
        Err(error) => {
            return warn(
                "tree",
                format!("{TREE}. It is not known which packets pass between workspaces: {error}"),
                "run `ostler doctor` again once Podman answers",
            );
        }
    };
    if network.isolate {
        between_isolated(TREE, &(network.packets)(), rootless, &sharing(attached))
    } else {
        between_shared(TREE, rootless, &apart_from(&instance_name(instance), attached))
    }
}

/// Names of the containers that share a network with another container.
fn sharing(attached: &[Attached]) -> Vec<&str> {
    let shares = |one: &Attached| {
        let mut others = attached.iter().filter(|other| other.name != one.name);
        others.any(|other| other.networks.iter().any(|network| one.networks.contains(network)))
    };
    attached.iter().filter(|one| shares(one)).map(|one| one.name.as_str()).collect()
}

/// Names of the containers that are in their workspace's own network and not in the shared one.
fn apart_from<'a>(shared: &str, attached: &'a [Attached]) -> Vec<&'a str> {
    let is_apart = |one: &&Attached| {
        one.own.as_ref().is_some_and(|own| one.networks.contains(own))
            && !one.networks.iter().any(|network| network == shared)
    };
    attached.iter().filter(is_apart).map(|one| one.name.as_str()).collect()
}

/// Maximum number of workspaces that one check names.
const MOST_NAMES: usize = 20;

fn names(all: &[&str]) -> String {
    let listed = all.len().min(MOST_NAMES);
    match all.len() - listed {
        0 => all.join(", "),
        more => format!("{} and {more} more", all[..listed].join(", ")),
    }
}

const RECREATE: &str = "the setting applies to containers created from now on: `ostler recreate NAME` moves an existing \
                        workspace (its container is replaced, its volumes stay)";

fn between_isolated(tree: &str, packets: &Result<(), String>, rootless: bool, sharing: &[&str]) -> Check {
    let still = match sharing {
        [] => String::new(),
        sharing => {
            format!(" Still in a shared network, where they reach each other's ports: {}.", names(sharing))
        }
    };
    match packets {
        Ok(()) if sharing.is_empty() => ok(
            "tree",
            format!(
                "{tree}. Packets to workspaces are dropped unless they come from this host (`network.isolate`)"
            ),
        ),
        Ok(()) => warn(
            "tree",
            format!("{tree}. Packets between workspaces' networks are dropped (`network.isolate`).{still}"),
            RECREATE,
        ),
        Err(why) => {
            let needed = if rootless {
                "with rootless Podman, ostler cannot drop these packets. Only Podman's own `isolate` option applies, \
                 which netavark before 1.5 loses when a container stops."
            } else {
                "ostler needs root and `nft` (Debian package `nftables`) to drop these packets."
            };
            let proof =
                "Agents can use the header `X-Ostler-Proof` to verify that a request comes from ostler";
            let recreate = if sharing.is_empty() { String::new() } else { format!("\n{RECREATE}") };
            warn(
                "tree",
                format!(
                    "{tree}. Packets between workspaces may pass, although `network.isolate` is set: {why}.{still}"
                ),
                format!("{needed} {proof}{recreate}"),
            )
        }
    }
}

fn between_shared(tree: &str, rootless: bool, apart: &[&str]) -> Check {
    let isolate = if rootless {
        "With rootless Podman, ostler cannot drop packets between workspaces: `network.isolate = true` gives each \
         workspace its own network, and Podman may or may not separate these networks"
    } else {
        "`network.isolate = true` gives each workspace its own network and drops packets between them"
    };
    let proof = "agents can use the header `X-Ostler-Proof` to verify that a request comes from ostler";
    let packets = "The tree does not control packets:";
    match apart {
        [] => ok(
            "tree",
            format!(
                "{tree}. {packets} all workspaces share one network and reach each other's ports. {isolate}; {proof}"
            ),
        ),
        apart => warn(
            "tree",
            format!(
                "{tree}. {packets} workspaces share one network and reach each other's ports. Workspaces that were \
                 created while `network.isolate` was set may still be cut off from the others: {}",
                names(apart)
            ),
            RECREATE,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADVERTISED: &str = "http://10.89.0.1:7717";

    /// The stream as the engine sends it: one frame for each part. A part may end anywhere in the text.
    fn framed(parts: &[&str]) -> Vec<u8> {
        let mut stream = Vec::new();
        for part in parts {
            stream.extend([1, 0, 0, 0]);
            stream.extend(u32::try_from(part.len()).unwrap().to_be_bytes());
            stream.extend(part.as_bytes());
        }
        stream
    }

    #[test]
    fn only_the_daemons_own_response_proves_reachability() {
        let asking = format!("asking {ADVERTISED}/health\n");
        let health = |mark: &str| format!("{{\"status\":\"ok\",\"registry\":\"{mark}\"}}");
        let own = framed(&[&asking, &health("7")[..9], &health("7")[9..]]);
        assert_eq!(parse_inside_answer(&own, "7"), InsideAnswer::Ostler(ADVERTISED.into()));
        for (output, expected) in [
            (health("8"), "the ostler daemon of another registry answered"),
            ("Traceback\n  File\nurllib.error.URLError: refused\n".into(), "urllib.error.URLError: refused"),
            ("<html>".into(), "<html>"),
            (String::new(), "no answer"),
        ] {
            let answer = parse_inside_answer(&framed(&[&asking, &output]), "7");
            assert_eq!(answer, InsideAnswer::Otherwise(ADVERTISED.into(), expected.into()), "{output}");
        }
    }

    #[test]
    fn probe_is_reported_as_not_made_without_shell_or_http_client() {
        for output in [
            &framed(&["OCI runtime exec failed: no such file"])[..],
            b"",
            b"\x01\0\0",
            &framed(&["asking x/health\n", "no tool\n"]),
        ] {
            assert!(matches!(parse_inside_answer(output, "7"), InsideAnswer::NotAsked(_)), "{output:?}");
        }
    }

    #[test]
    fn truncated_frame_is_read_up_to_the_cut() {
        let mut stream = framed(&["one ", "two"]);
        stream.truncate(stream.len() - 1);
        assert_eq!(unframed(&stream), "one tw");
    }

    fn network(listen: &[&str]) -> Network {
        Network {
            listen: listen.iter().map(|address| address.parse().unwrap()).collect(),
            port: 7717,
            advertised_url: ADVERTISED.into(),
            is_url_configured: false,
            isolate: false,
            packets: Arc::new(|| Ok(())),
            since: Timestamp(0),
            bound: Arc::new(|| unreachable!("tests pass the addresses directly")),
            reach: Arc::new(|| unreachable!("tests pass the addresses directly")),
        }
    }

    fn listening(listen: &[&str], reach: Result<(&str, bool), &str>) -> (String, String) {
        let bound = reach.map_or("", |(address, _)| address);
        with_bound(listen, reach, bound, Proof::NoneRunning)
    }

    fn addresses(bound: &str) -> BTreeSet<IpAddr> {
        bound.split_whitespace().map(|address| address.parse().unwrap()).collect()
    }

    fn with_bound(
        listen: &[&str],
        reach: Result<(&str, bool), &str>,
        bound: &str,
        proof: Proof,
    ) -> (String, String) {
        // Only a rootless engine has an address that other machines reach.
        let reach = reach.map(|(address, reachable_from_lan)| Reach {
            addresses: BTreeSet::from([address.parse().unwrap()]),
            reachable_from_lan,
            rootless: reachable_from_lan,
            outdated: BTreeSet::new(),
        });
        let check = listen_check(&network(listen), &reach.map_err(str::to_owned), &addresses(bound), proof);
        (check.verdict, format!("{} {}", check.found, check.advice.unwrap_or_default()).trim().to_owned())
    }

    #[test]
    fn listen_setting_without_workspace_address_is_warned_about() {
        for (listen, reach) in [
            (&["127.0.0.1"][..], Ok(("192.168.1.10", true))),
            (&["127.0.0.1"], Ok(("10.89.0.1", false))),
            (&["127.0.0.1", "10.89.7.1"], Ok(("10.89.0.1", false))),
        ] {
            let (verdict, text) = listening(listen, reach);
            assert_eq!(verdict, "warn", "{text}");
            let address = reach.unwrap().0;
            assert!(text.contains(&format!("workspaces use {address}")), "{text}");
        }
        assert_eq!(listening(&["0.0.0.0"], Ok(("10.89.0.1", false))).1.find("workspaces use"), None);
        let advertised = Network { is_url_configured: true, ..network(&["127.0.0.1"]) };
        let reach = Reach {
            addresses: BTreeSet::from(["10.89.0.1".parse().unwrap()]),
            reachable_from_lan: false,
            rootless: false,
            outdated: BTreeSet::new(),
        };
        assert_eq!(
            listen_check(&advertised, &Ok(reach), &BTreeSet::new(), Proof::NoneRunning).verdict,
            "ok",
            "workspaces use another address"
        );
    }

    #[test]
    fn rootless_listen_advice_is_to_omit_the_listen_setting() {
        let (verdict, text) = listening(&["0.0.0.0"], Ok(("192.168.1.10", true)));
        assert_eq!(verdict, "warn", "{text}");
        assert!(text.contains("or remove `network.listen`"), "{text}");
        let (_, text) = listening(&["0.0.0.0"], Ok(("10.89.0.1", false)));
        assert!(
            text.contains("keep other machines out, add a firewall rule or set `network.listen`"),
            "{text}"
        );
    }

    const INSTANCE: InstanceId = InstanceId(uuid::Uuid::from_u128(1));

    fn attached(all: &[(&str, &str)]) -> Vec<Attached> {
        let one = |(name, network): &(&str, &str)| Attached {
            name: (*name).to_owned(),
            own: Some(format!("{name}-net")),
            networks: vec![(*network).to_owned()],
        };
        all.iter().map(one).collect()
    }

    fn tree(isolate: bool, rootless: bool, all: &[(&str, &str)]) -> Check {
        let packets: Result<(), String> = if rootless { Err("rootless".into()) } else { Ok(()) };
        let network = Network { isolate, packets: Arc::new(move || packets.clone()), ..network(&[]) };
        between(&network, rootless, INSTANCE, &Ok(attached(all)))
    }

    #[test]
    fn tree_check_uses_the_networks_of_existing_containers() {
        let shared = &instance_name(INSTANCE)[..];
        let check = tree(true, false, &[("x3", shared), ("x4", shared), ("x5", "x5-net")]);
        assert_eq!(check.verdict, "warn", "{check:?}");
        assert!(check.found.contains("x3, x4") && !check.found.contains("x5"), "{check:?}");
        assert!(check.advice.is_some_and(|advice| advice.contains("ostler recreate")), "no advice");
        let check = tree(true, false, &[("x3", shared), ("x5", "x5-net")]);
        assert_eq!(
            check.verdict, "ok",
            "a workspace that is alone in its network reaches no other: {check:?}"
        );

        let check = tree(false, false, &[("x3", shared), ("x5", "x5-net")]);
        assert_eq!(check.verdict, "warn", "{check:?}");
        assert!(check.found.contains("cut off from the others: x5"), "{check:?}");
        assert_eq!(tree(false, false, &[("x3", shared), ("x4", shared)]).verdict, "ok");

        let unknown = between(&network(&[]), false, INSTANCE, &Err("no answer".into()));
        assert_eq!(unknown.verdict, "warn", "{unknown:?}");
    }

    #[test]
    fn rootless_tree_check_reports_that_packets_are_not_dropped() {
        let shared = &instance_name(INSTANCE)[..];
        let check = tree(false, true, &[("x3", shared)]);
        assert!(!check.found.contains("and drops packets"), "{check:?}");
        assert!(check.found.contains("cannot drop packets"), "{check:?}");
        let check = tree(true, true, &[("x3", "x3-net")]);
        assert_eq!(check.verdict, "warn", "{check:?}");
        assert!(check.advice.is_some_and(|advice| !advice.contains("needs root")), "wrong advice");
    }

    #[test]
    fn addresses_that_are_not_bound_are_reported() {
        use Proof::{Missing, NoneRunning, Reached};
        let gateway = Ok(("10.89.0.1", false));
        let last = "127.0.0.1:7717 and 10.89.0.1:7717";
        for (reach, bound, proof, verdict, advertised) in [
            (gateway, "", Missing, "fail", "not on 1 of 1 addresses"),
            (gateway, "", NoneRunning, "fail", "10.89.0.1:7717"),
            (gateway, "", Reached, "warn", "not on 1 of 1 addresses"),
            (gateway, "10.89.0.1", Missing, "ok", last),
            (Err("away"), "10.89.0.1", Reached, "ok", last),
            (Err("away"), "10.89.0.1", NoneRunning, "ok", last),
            (Err("away"), "10.89.0.1", Missing, "warn", last),
            (Err("away"), "", Missing, "fail", "127.0.0.1:7717 only"),
            (Err("away"), "", NoneRunning, "warn", "127.0.0.1:7717 only"),
            (Err("away"), "", Reached, "ok", "127.0.0.1:7717"),
        ] {
            let (found, text) = with_bound(&[], reach, bound, proof);
            assert!(
                found == verdict && text.contains(advertised),
                "{reach:?}, {bound}, {proof:?}: {found}, {text}"
            );
        }
    }

    #[test]
    fn address_reachable_from_other_machines_is_warned_about() {
        let gateway = Ok(("10.89.0.1", false));
        let (verdict, found) = listening(&[], gateway);
        assert_eq!(verdict, "ok", "{found}");
        assert!(found.ends_with("127.0.0.1:7717 and 10.89.0.1:7717"), "{found}");
        assert_eq!(
            listening(&["127.0.0.1", "10.89.0.1"], gateway).0,
            "ok",
            "the gateway is an address of this host"
        );
        let (verdict, found) = listening(&[], Ok(("192.168.1.10", true)));
        assert_eq!(verdict, "ok", "rootless: connections from other machines are closed: {found}");
        assert!(found.ends_with("192.168.1.10:7717; connections from other machines are closed"), "{found}");
        for (listen, reach) in [
            (&["192.168.1.10"][..], Ok(("192.168.1.10", true))),
            (&["0.0.0.0"], gateway),
            (&["::"], gateway),
            (&["192.168.1.10"], gateway),
            (&["0.0.0.0"], Err("away")),
        ] {
            let (verdict, found) = listening(listen, reach);
            assert_eq!(verdict, "warn", "{found}");
            assert!(found.contains("other machines"), "{found}");
        }
    }

    #[test]
    fn listen_check_gives_reason_for_unknown_gateway_address() {
        let (verdict, found) = listening(&[], Err("the engine is away"));
        assert_eq!(verdict, "warn");
        assert!(found.contains("the engine is away") && found.contains("127.0.0.1:7717 only"), "{found}");
    }
}
