//! A fake engine for tests, with the visible behaviour of an engine and the ways in which one can fail.
//!
//! The state of the engine lives in [`World`], which outlives any daemon as a real engine does. A [`FakeEngine`] is one
//! connection to it. The effect of each call is carried out on a [`Stage`], so a test decides when it happens. Each
//! call can be given a [`Fault`]: refused before it takes effect, failed afterwards, delayed, or never answered. A
//! caller that gives up does not cancel its call. Events have their own faults, [`EventFault`].

mod events;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::stream;
use tokio::sync::oneshot;

pub use self::events::EventFault;
use self::events::{Listener, News};
use super::{
    ContainerSpec, DiskUsage, Duplex, Engine, EngineError, EngineInfo, EngineResult, EngineUse, Environment,
    ErrorKind, EventStream, ExecId, ExecRequest, FileToWrite, InspectedContainer, InspectedVolume,
    ListedNetwork, LogChunk, LogRequest, LogStream, MountSource, NetworkInfo, Progress, ServiceCommands,
    Sockets, VolumeSpec,
};
use crate::{
    domain::{
        ids::ContainerId,
        observed::{ContainerEvent, ContainerEventKind, ContainerState, ObservedContainer, ObservedVolume},
        runtime::User,
        time::Timestamp,
    },
    runtime::{
        clock::{Clock, SharedClock},
        tasks::{SharedSpawn, Stage},
    },
};

/// A call that is about to be carried out, as passed to the hook that selects faults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Name of the method, such as `start_container`.
    pub method: &'static str,
    /// The container, volume or image that the call concerns.
    pub object: String,
}

/// Fault injected into a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The call succeeds.
    None,
    /// The call fails and has no effect.
    Before(ErrorKind),
    /// The call takes effect, and the answer is an error.
    After(ErrorKind),
    /// The call takes effect after this delay and answers then.
    Slow(Duration),
    /// The call takes effect at once. After this delay it answers with the result from that time.
    Stale(Duration),
    /// A listing shows at most this many entries; other calls succeed.
    Partial(usize),
    /// The call is never answered, but takes effect after this delay.
    Late(Duration),
    /// The call is never answered and has no effect.
    Lost,
    /// Writing a file reports success but does not change the file, as engines do that write beneath a mount. Other
    /// calls succeed.
    Pretended,
    /// A start is interrupted. From then on the container's port is in use, and the container never starts.
    HalfWay,
}

type FaultHook = Box<dyn FnMut(&Call) -> Fault + Send>;

/// A container of the fake engine.
#[derive(Clone, Debug)]
pub struct FakeContainer {
    /// Name, unique in the engine.
    pub name: String,
    /// Specification that it was created from.
    pub spec: ContainerSpec,
    /// Current state.
    pub state: ContainerState,
    /// Exit code of the process; `None` while it runs or before it has run.
    pub exit_code: Option<i32>,
    /// Time of the last start.
    pub started_at: Option<Timestamp>,
    /// Content of the token file when the process started; the process keeps it until it ends.
    pub held_token: Option<Vec<u8>>,
    /// Number of `start_container` calls that took effect.
    pub starts: u32,
    /// Number of calls that had taken effect when the process started.
    pub started_after: usize,
}

/// A volume of the fake engine.
#[derive(Clone, Debug, Default)]
pub struct FakeVolume {
    /// Labels of the volume.
    pub labels: BTreeMap<String, String>,
    /// Content of each file, by name.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Whether the directory is missing.
    pub directory_missing: bool,
}

/// The contents of the engine.
///
/// Changing a container directly through the fields emits no event, as if the event were lost. [`run`](State::run),
/// [`kill`](State::kill) and [`remove`](State::remove) emit events.
#[derive(Default)]
pub struct State {
    /// Containers by id.
    pub containers: BTreeMap<ContainerId, FakeContainer>,
    /// Volumes by name.
    pub volumes: BTreeMap<String, FakeVolume>,
    /// Networks by name.
    pub networks: BTreeMap<String, ListedNetwork>,
    /// Images that exist locally.
    pub images: BTreeSet<String>,
    /// Images that a pull can fetch.
    pub pullable: BTreeSet<String>,
    /// Host ports held by other processes.
    pub busy_ports: BTreeSet<u16>,
    /// Containers whose start was interrupted: they never start.
    pub half_started: BTreeSet<ContainerId>,
    /// Output of containers, one line per chunk.
    pub logs: BTreeMap<ContainerId, Vec<LogChunk>>,
    /// All calls that took effect, in order.
    pub log: Vec<Call>,
    /// Indices into `log` of calls whose result did not reach the caller, because the caller got an error or had
    /// stopped waiting.
    pub lost_exits: BTreeSet<usize>,
    /// Whether the engine reports that it is rootless, which means that it forwards ports in user space.
    pub rootless: bool,
    /// Container limits that the engine reports as ignored.
    pub ignored_limits: Vec<&'static str>,
    /// Number of times that this state may have changed: by a call that took effect, or by a test.
    pub changes: u64,
    made: u128,
    news: News,
}

impl State {
    /// Current content of the token file in a container's volume.
    #[must_use]
    pub fn token_file(&self, container: &FakeContainer) -> Option<Vec<u8>> {
        let volume = container.spec.mounts.iter().find_map(|mount| match &mount.source {
            MountSource::Volume(name) if mount.target == "/configs" => Some(name),
            MountSource::Volume(_) | MountSource::HostDirectory(_) | MountSource::Tmpfs => None,
        })?;
        self.volumes.get(volume)?.files.get(".auth_token").cloned()
    }

    /// Host ports that running containers publish.
    fn ports(&self) -> impl Iterator<Item = u16> {
        let running = self.containers.values().filter(|container| container.state.may_run());
        running.filter_map(|container| container.spec.publish.map(|(_, host)| host))
    }

    /// Simulates an interrupted start of a container: its port stays in use, and it never starts again.
    fn start_half_way(&mut self, id: &str) {
        let stopped = self.containers.iter().find(|(found, c)| found.as_str() == id && !c.state.may_run());
        let Some((id, container)) = stopped else { return };
        self.half_started.insert(id.clone());
        self.busy_ports.extend(container.spec.publish.map(|(_, host)| host));
    }

    /// Starts a container's process with the current content of its volumes.
    pub fn run(&mut self, id: &ContainerId) {
        let token = self.containers.get(id).and_then(|container| self.token_file(container));
        self.changes += 1;
        let Some(container) = self.containers.get_mut(id) else { return };
        container.state = ContainerState::Running;
        container.exit_code = None;
        container.started_at = Some(self.news.now());
        container.held_token = token;
        container.started_after = self.log.len();
        self.news.emit(id, &container.spec.labels, ContainerEventKind::Started);
    }

    /// Simulates an unexpected exit of a container's process.
    pub fn kill(&mut self, id: &ContainerId, exit_code: i32) {
        self.changes += 1;
        let Some(container) = self.containers.get_mut(id) else { return };
        let ran = container.state.may_run();
        container.state = ContainerState::Exited;
        container.exit_code = Some(exit_code);
        if ran {
            let died = ContainerEventKind::Died { exit_code: Some(exit_code) };
            self.news.emit(id, &container.spec.labels, died);
        }
    }

    /// Freezes or resumes a container's process, as `podman pause` and `podman unpause` do.
    pub fn freeze(&mut self, id: &ContainerId, frozen: bool) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let (from, to) = if frozen {
            (ContainerState::Running, ContainerState::Paused)
        } else {
            (ContainerState::Paused, ContainerState::Running)
        };
        if container.state == from {
            container.state = to;
            self.changes += 1;
        }
    }

    /// Renames a container, as an operator does.
    pub fn rename(&mut self, id: &ContainerId, name: &str) {
        if let Some(container) = self.containers.get_mut(id) {
            name.clone_into(&mut container.name);
            self.changes += 1;
        }
    }

    /// Deletes the volumes that no container mounts, as `podman volume prune` does. Returns their names.
    pub fn prune_volumes(&mut self) -> Vec<String> {
        let mounted: BTreeSet<_> = self.containers.values().flat_map(|c| volumes_of(&c.spec)).collect();
        let pruned: Vec<_> = self.volumes.keys().filter(|name| !mounted.contains(*name)).cloned().collect();
        self.volumes.retain(|name, _| mounted.contains(name));
        self.changes += 1;
        pruned
    }

    /// Deletes a container; a running one is killed first.
    pub fn remove(&mut self, id: &ContainerId) {
        if self.containers.get(id).is_some_and(|container| container.state.may_run()) {
            self.kill(id, 137);
        }
        self.changes += 1;
        if let Some(container) = self.containers.remove(id) {
            self.logs.remove(id);
            self.news.emit(id, &container.spec.labels, ContainerEventKind::Removed);
        }
    }

    /// Number of active event subscriptions.
    #[must_use]
    pub fn listeners(&self) -> usize {
        self.news.listeners()
    }

    fn volume_at(&mut self, id: &ContainerId, directory: &str) -> EngineResult<&mut FakeVolume> {
        let container = self.containers.get(id).ok_or_else(|| absent("use container", id.as_str()))?;
        let name = container.spec.mounts.iter().find_map(|mount| match &mount.source {
            MountSource::Volume(name) if mount.target == directory => Some(name.clone()),
            MountSource::Volume(_) | MountSource::HostDirectory(_) | MountSource::Tmpfs => None,
        });
        let volume = name.and_then(|name| self.volumes.get_mut(&name));
        match volume {
            Some(volume) if !volume.directory_missing => Ok(volume),
            _ => Err(EngineError::new(
                ErrorKind::Other,
                "reach volume",
                "the directory of the volume does not exist",
            )),
        }
    }
}

/// The engine's state, which outlives a daemon.
#[derive(Default)]
pub struct World {
    state: Mutex<State>,
    /// State of the different engine that the socket leads to; `None` while the socket leads to this engine.
    elsewhere: Mutex<Option<State>>,
    faults: Mutex<Option<FaultHook>>,
}

impl World {
    /// State of this engine. A test can read it, and change it without ostler's knowledge.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the socket lead to another, empty engine. This simulates another user's engine, another storage, or a disk
    /// that is not mounted.
    pub fn lead_elsewhere(&self) {
        let here = self.state();
        // A real engine creates random ids, so an id of the other engine must not occur in this one.
        let mut there =
            State { images: here.images.clone(), made: here.made + (1 << 64), ..State::default() };
        // Both engines share the ports of one host.
        there.busy_ports.clone_from(&here.busy_ports);
        there.busy_ports.extend(here.ports());
        drop(here);
        *self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner) = Some(there);
    }

    /// Makes the socket lead to this engine again.
    pub fn lead_here(&self) {
        let there = self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(there) = there {
            self.state().made = there.made;
        }
    }

    /// Whether the socket leads to another engine.
    pub fn is_elsewhere(&self) -> bool {
        self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Applies a call's effect to the engine that the socket leads to now.
    fn reached<T>(&self, effect: impl FnOnce(&mut State) -> T) -> T {
        let mut elsewhere = self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *elsewhere {
            Some(state) => effect(state),
            None => effect(&mut self.state()),
        }
    }

    /// Sets the hook that selects the fault of every following call.
    pub fn inject(&self, hook: impl FnMut(&Call) -> Fault + Send + 'static) {
        *self.faults.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(hook));
    }

    /// Sets the hook that selects the fault of every event, called once for each listener. The hook must not access the
    /// world: its state is locked during the call.
    pub fn inject_into_events(&self, hook: impl FnMut(&ContainerEvent) -> EventFault + Send + 'static) {
        self.state().news.faults = Some(Box::new(hook));
    }

    /// Ends every event stream, with this error or without one, after the events in transit.
    pub fn end_events(&self, kind: Option<ErrorKind>) {
        self.state().news.end(kind);
    }

    /// Removes all faults.
    pub fn heal(&self) {
        self.state().news.faults = None;
        self.lead_here();
        *self.faults.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn fault(&self, call: &Call) -> Fault {
        let mut hook = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        hook.as_mut().map_or(Fault::None, |hook| hook(call))
    }
}

/// A connection to a [`World`].
pub struct FakeEngine {
    world: Arc<World>,
    stage: Arc<dyn Stage>,
    clock: SharedClock,
    spawn: SharedSpawn,
}

fn absent(call: &str, object: &str) -> EngineError {
    EngineError::new(ErrorKind::Absent, format!("{call} {object}"), "not found")
}

fn conflict(call: &str, message: impl Into<String>) -> EngineError {
    EngineError::new(ErrorKind::Conflict, call, message)
}

impl FakeEngine {
    /// Connects to the engine. `spawn` runs the effects that outlive the caller.
    #[must_use]
    pub fn connect(world: Arc<World>, stage: Arc<dyn Stage>, clock: SharedClock, spawn: SharedSpawn) -> Self {
        world.state().news.clock = Some(Arc::clone(&clock));
        Self { world, stage, clock, spawn }
    }

    async fn call<T: Send + 'static>(
        &self,
        method: &'static str,
        object: impl Into<String>,
        effect: impl FnOnce(&mut State, &dyn Clock) -> EngineResult<T> + Send + 'static,
    ) -> EngineResult<T> {
        let call = Call { method, object: object.into() };
        let fault = self.world.fault(&call);
        self.carry_out(call, fault, effect).await
    }

    /// Carries out a call whose answer is a listing.
    async fn list<T: Send + 'static>(
        &self,
        method: &'static str,
        object: impl Into<String>,
        effect: impl FnOnce(&State) -> Vec<T> + Send + 'static,
    ) -> EngineResult<Vec<T>> {
        let call = Call { method, object: object.into() };
        let fault = self.world.fault(&call);
        let most = if let Fault::Partial(most) = fault { most } else { usize::MAX };
        let effect = move |state: &mut State, _: &dyn Clock| {
            let mut listed = effect(state);
            listed.truncate(most);
            Ok(listed)
        };
        self.carry_out(call, fault, effect).await
    }

    async fn carry_out<T: Send + 'static>(
        &self,
        call: Call,
        fault: Fault,
        effect: impl FnOnce(&mut State, &dyn Clock) -> EngineResult<T> + Send + 'static,
    ) -> EngineResult<T> {
        let method = call.method;
        let failure = |kind| EngineError::new(kind, format!("{method} {}", call.object), "injected fault");
        let (reply, answer) = oneshot::channel();
        let (world, clock) = (Arc::clone(&self.world), Arc::clone(&self.clock));
        let logged = call.clone();
        let act = move |events_received: bool| {
            world.reached(|state| {
                state.changes += u64::from(changes(logged.method));
                if !events_received {
                    state.lost_exits.insert(state.log.len());
                }
                state.log.push(logged);
                effect(state, &*clock)
            })
        };
        match fault {
            Fault::None | Fault::Partial(_) | Fault::Pretended => {
                let effect = move || {
                    let answer = act(!reply.is_closed());
                    drop(reply.send(answer));
                };
                self.stage.submit(method, Box::new(effect));
            }
            Fault::Before(kind) => {
                let error = failure(kind);
                self.stage.submit(method, Box::new(move || drop(reply.send(Err(error)))));
            }
            Fault::HalfWay => {
                let error = failure(ErrorKind::Unreachable);
                let (world, id) = (Arc::clone(&self.world), call.object);
                let effect = move || {
                    world.reached(|state| state.start_half_way(&id));
                    drop(reply.send(Err(error)));
                };
                self.stage.submit(method, Box::new(effect));
            }
            Fault::After(kind) => {
                let error = failure(kind);
                let effect = move || {
                    let _done = act(false);
                    drop(reply.send(Err(error)));
                };
                self.stage.submit(method, Box::new(effect));
            }
            Fault::Slow(delay) => {
                let (clock, stage) = (Arc::clone(&self.clock), Arc::clone(&self.stage));
                self.spawn.spawn(Box::pin(async move {
                    clock.sleep(delay).await;
                    let effect = move || {
                        let answer = act(!reply.is_closed());
                        drop(reply.send(answer));
                    };
                    stage.submit(method, Box::new(effect));
                }));
            }
            Fault::Stale(delay) => {
                let (clock, spawn) = (Arc::clone(&self.clock), Arc::clone(&self.spawn));
                let effect = move || {
                    let answer = act(!reply.is_closed());
                    spawn.spawn(Box::pin(async move {
                        clock.sleep(delay).await;
                        drop(reply.send(answer));
                    }));
                };
                self.stage.submit(method, Box::new(effect));
            }
            Fault::Late(delay) => {
                let (clock, stage) = (Arc::clone(&self.clock), Arc::clone(&self.stage));
                self.spawn.spawn(Box::pin(async move {
                    clock.sleep(delay).await;
                    stage.submit(method, Box::new(move || drop(act(false))));
                }));
                return std::future::pending().await;
            }
            Fault::Lost => return std::future::pending().await,
        }
        answer
            .await
            .unwrap_or_else(|_| Err(EngineError::new(ErrorKind::Unreachable, method, "connection refused")))
    }
}

/// Whether calls of a method count in [`State::changes`]. The creation of a network does not count.
fn changes(method: &str) -> bool {
    const LISTINGS: [&str; 10] = [
        "describe",
        "list_containers",
        "list_volumes",
        "inspect_container",
        "inspect_volume",
        "read_file",
        "has_image",
        "ensure_network",
        "list_networks",
        "logs",
    ];
    !LISTINGS.contains(&method)
}

fn labelled(labels: &BTreeMap<String, String>, key: &str, value: Option<&str>) -> bool {
    labels.get(key).is_some_and(|found| value.is_none_or(|value| found == value))
}

#[async_trait]
impl Engine for FakeEngine {
    fn commands(&self) -> ServiceCommands {
        ServiceCommands { start: "start the fake".into(), restart: "restart the fake".into() }
    }

    async fn process_use(&self) -> EngineResult<Option<EngineUse>> {
        Ok(None)
    }

    async fn sockets(
        &self,
        _id: &ContainerId,
        _inside: u16,
        _published: u16,
    ) -> EngineResult<Option<Sockets>> {
        Ok(Some(Sockets { listens: true, ..Sockets::default() }))
    }

    async fn can_see_sockets(&self) -> bool {
        true
    }

    async fn end_exec(&self, _exec: &ExecId) -> EngineResult<bool> {
        Ok(false)
    }

    async fn describe(&self) -> EngineResult<EngineInfo> {
        self.call("describe", "", |state, _| {
            let rootless = state.rootless;
            let ignored_limits = state.ignored_limits.clone();
            Ok(EngineInfo { version: "Fake 1".into(), address: "memory".into(), rootless, ignored_limits })
        })
        .await
    }

    async fn list_containers(&self, key: &str, value: Option<&str>) -> EngineResult<Vec<ObservedContainer>> {
        let (key, value) = (key.to_owned(), value.map(str::to_owned));
        self.list("list_containers", key.clone(), move |state| {
            let listed =
                state.containers.iter().filter(|(_, c)| labelled(&c.spec.labels, &key, value.as_deref()));
            listed
                .map(|(id, container)| ObservedContainer {
                    id: id.clone(),
                    name: container.name.clone(),
                    labels: container.spec.labels.clone(),
                    state: container.state,
                    exit_code: container.exit_code,
                    started_at: container.started_at,
                    networks: vec![container.spec.network.clone()],
                })
                .collect()
        })
        .await
    }

    async fn list_volumes(&self, key: &str, value: Option<&str>) -> EngineResult<Vec<ObservedVolume>> {
        let (key, value) = (key.to_owned(), value.map(str::to_owned));
        self.list("list_volumes", key.clone(), move |state| {
            let listed = state.volumes.iter().filter(|(_, v)| labelled(&v.labels, &key, value.as_deref()));
            listed
                .map(|(name, volume)| ObservedVolume { name: name.clone(), labels: volume.labels.clone() })
                .collect()
        })
        .await
    }

    async fn inspect_container(&self, id: &ContainerId) -> EngineResult<InspectedContainer> {
        let id = id.clone();
        self.call("inspect_container", id.to_string(), move |state, _| {
            let container =
                state.containers.get(&id).ok_or_else(|| absent("inspect container", id.as_str()))?;
            Ok(InspectedContainer {
                id: id.clone(),
                name: container.name.clone(),
                labels: container.spec.labels.clone(),
                state: container.state,
                exit_code: container.exit_code,
                out_of_memory: false,
                env: container.spec.env.clone(),
                volumes: volumes_of(&container.spec),
                host_port: container.spec.publish.map(|(_, host)| host),
                exit_lost: false,
            })
        })
        .await
    }

    async fn create_container(&self, spec: &ContainerSpec) -> EngineResult<ContainerId> {
        let spec = spec.clone();
        self.call("create_container", spec.name.clone(), move |state, _| {
            if !state.images.contains(&spec.image) {
                return Err(EngineError::new(ErrorKind::ImageMissing, "create container", "image not known"));
            }
            if state.containers.values().any(|container| container.name == spec.name) {
                return Err(conflict("create container", "name already in use"));
            }
            if let Some(volume) = volumes_of(&spec).iter().find(|name| !state.volumes.contains_key(*name)) {
                return Err(absent("mount volume", volume));
            }
            state.made += 1;
            let id = ContainerId::try_from(format!("{:064x}", state.made))
                .map_err(|error| EngineError::new(ErrorKind::Other, "create container", error.to_string()))?;
            let container = FakeContainer {
                name: spec.name.clone(),
                spec,
                state: ContainerState::Created,
                exit_code: None,
                started_at: None,
                held_token: None,
                starts: 0,
                started_after: 0,
            };
            state.containers.insert(id.clone(), container);
            Ok(id)
        })
        .await
    }

    async fn start_container(&self, id: &ContainerId) -> EngineResult<()> {
        let id = id.clone();
        self.call("start_container", id.to_string(), move |state, _| {
            let container =
                state.containers.get(&id).ok_or_else(|| absent("start container", id.as_str()))?;
            if container.state.may_run() {
                return Err(conflict("start container", "already running"));
            }
            let missing =
                |name: &String| state.volumes.get(name).is_none_or(|volume| volume.directory_missing);
            if volumes_of(&container.spec).iter().any(missing) {
                return Err(EngineError::new(ErrorKind::Other, "start container", "a volume is missing"));
            }
            if state.half_started.contains(&id) {
                return Err(EngineError::new(
                    ErrorKind::HalfStarted,
                    "start container",
                    "address already in use",
                ));
            }
            let port = container.spec.publish.map(|(_, host)| host);
            let held = |other: &FakeContainer| {
                other.state.may_run() && other.spec.publish.map(|(_, host)| host) == port
            };
            if let Some(port) = port
                && (state.busy_ports.contains(&port) || state.containers.values().any(held))
            {
                return Err(EngineError::new(
                    ErrorKind::PortInUse,
                    "start container",
                    "address already in use",
                ));
            }
            state.run(&id);
            if let Some(container) = state.containers.get_mut(&id) {
                container.starts += 1;
            }
            Ok(())
        })
        .await
    }

    async fn stop_container(&self, id: &ContainerId, _grace: Duration) -> EngineResult<()> {
        let id = id.clone();
        self.call("stop_container", id.to_string(), move |state, _| {
            if state.containers.get(&id).is_some_and(|container| container.state.may_run()) {
                state.kill(&id, 143);
            }
            Ok(())
        })
        .await
    }

    async fn rename_container(&self, id: &ContainerId, name: &str) -> EngineResult<()> {
        let (id, name) = (id.clone(), name.to_owned());
        self.call("rename_container", id.to_string(), move |state, _| {
            if state.containers.iter().any(|(other, container)| *other != id && container.name == name) {
                return Err(conflict("rename container", "name already in use"));
            }
            let container =
                state.containers.get_mut(&id).ok_or_else(|| absent("rename container", id.as_str()))?;
            container.name = name;
            Ok(())
        })
        .await
    }

    async fn delete_container(&self, id: &ContainerId) -> EngineResult<()> {
        let id = id.clone();
        self.call("delete_container", id.to_string(), move |state, _| {
            if state.containers.get(&id).is_some_and(|container| container.state.may_run()) {
                return Err(conflict("delete container", "container is running"));
            }
            state.remove(&id);
            Ok(())
        })
        .await
    }

    async fn create_volume(&self, spec: &VolumeSpec) -> EngineResult<()> {
        let spec = spec.clone();
        self.call("create_volume", spec.name.clone(), move |state, _| {
            if state.volumes.contains_key(&spec.name) {
                return Err(conflict("create volume", "volume already exists"));
            }
            state.volumes.insert(spec.name, FakeVolume { labels: spec.labels, ..FakeVolume::default() });
            Ok(())
        })
        .await
    }

    async fn inspect_volume(&self, name: &str) -> EngineResult<InspectedVolume> {
        let name = name.to_owned();
        self.call("inspect_volume", name.clone(), move |state, _| {
            let volume = state.volumes.get(&name).ok_or_else(|| absent("inspect volume", &name))?;
            Ok(InspectedVolume { labels: volume.labels.clone(), directory_missing: volume.directory_missing })
        })
        .await
    }

    async fn repair_volume(&self, name: &str, _owner: User) -> EngineResult<()> {
        let name = name.to_owned();
        self.call("repair_volume", name.clone(), move |state, _| {
            let volume = state.volumes.get_mut(&name).ok_or_else(|| absent("repair volume", &name))?;
            volume.directory_missing = false;
            Ok(())
        })
        .await
    }

    async fn delete_volume(&self, name: &str) -> EngineResult<()> {
        let name = name.to_owned();
        self.call("delete_volume", name.clone(), move |state, _| {
            if state.containers.values().any(|container| volumes_of(&container.spec).contains(&name)) {
                return Err(conflict("delete volume", "volume is being used"));
            }
            state.volumes.remove(&name);
            Ok(())
        })
        .await
    }

    async fn write_file(&self, id: &ContainerId, directory: &str, file: &FileToWrite) -> EngineResult<()> {
        let call = Call { method: "write_file", object: id.to_string() };
        let fault = self.world.fault(&call);
        let (id, directory, file) = (id.clone(), directory.to_owned(), file.clone());
        let pretended = fault == Fault::Pretended;
        let effect = move |state: &mut State, _: &dyn Clock| {
            let volume = state.volume_at(&id, &directory)?;
            if !pretended {
                volume.files.insert(file.name, file.content);
            }
            Ok(())
        };
        self.carry_out(call, fault, effect).await
    }

    async fn read_file(&self, id: &ContainerId, path: &str) -> EngineResult<Vec<u8>> {
        let (id, path) = (id.clone(), path.to_owned());
        self.call("read_file", id.to_string(), move |state, _| {
            let (directory, name) = path.rsplit_once('/').unwrap_or(("", &path));
            let volume = state.volume_at(&id, directory)?;
            volume.files.get(name).cloned().ok_or_else(|| absent("read file", &path))
        })
        .await
    }

    /// Recorded as `read_file` in the log, and subject to the faults of `read_file`.
    async fn file_holds(&self, id: &ContainerId, path: &str, content: &[u8]) -> EngineResult<bool> {
        Ok(self.read_file(id, path).await? == content)
    }

    async fn ensure_network(
        &self,
        name: &str,
        labels: &BTreeMap<String, String>,
        _isolate: bool,
    ) -> EngineResult<NetworkInfo> {
        let (name, labels) = (name.to_owned(), labels.clone());
        self.call("ensure_network", name.clone(), move |state, _| {
            // The gateway is derived from the number of networks, of which no test creates 65 536. After a deletion, a
            // new network may get the gateway of an existing one.
            let [third, fourth] = u16::try_from(state.networks.len()).unwrap_or(u16::MAX).to_be_bytes();
            let made = ListedNetwork {
                name: name.clone(),
                labels,
                info: NetworkInfo {
                    gateway: Some([10, 89_u8.saturating_add(third), fourth, 1].into()),
                    subnet: None,
                },
            };
            let network = state.networks.entry(name).or_insert(made);
            Ok(network.info)
        })
        .await
    }

    async fn list_networks(&self, key: &str, value: &str) -> EngineResult<Vec<ListedNetwork>> {
        let (key, value) = (key.to_owned(), value.to_owned());
        self.call("list_networks", "", move |state, _| {
            let ours = state.networks.values().filter(|one| labelled(&one.labels, &key, Some(&value)));
            Ok(ours.cloned().collect())
        })
        .await
    }

    async fn delete_network(&self, name: &str) -> EngineResult<()> {
        let name = name.to_owned();
        self.call("delete_network", name.clone(), move |state, _| {
            if state.containers.values().any(|container| container.spec.network == name) {
                return Err(conflict("delete network", "network is being used"));
            }
            state.networks.remove(&name);
            Ok(())
        })
        .await
    }

    async fn has_image(&self, image: &str) -> EngineResult<bool> {
        let image = image.to_owned();
        self.call("has_image", image.clone(), move |state, _| Ok(state.images.contains(&image))).await
    }

    async fn pull_image(&self, image: &str, progress: Progress<'_>) -> EngineResult<()> {
        progress("contacting the image registry");
        let image = image.to_owned();
        self.call("pull_image", image.clone(), move |state, _| {
            if state.pullable.contains(&image) {
                state.images.insert(image);
                Ok(())
            } else {
                Err(EngineError::new(
                    ErrorKind::ImageMissing,
                    format!("pull image {image}"),
                    "manifest unknown",
                ))
            }
        })
        .await
    }

    async fn port_is_free(&self, port: u16) -> bool {
        self.world
            .reached(|state| !state.busy_ports.contains(&port) && !state.ports().any(|taken| taken == port))
    }

    async fn disk_usage(&self) -> EngineResult<DiskUsage> {
        Ok(DiskUsage::default())
    }

    /// Logs do not grow while they are read: a follower gets the existing lines only.
    async fn logs(&self, id: &ContainerId, request: LogRequest) -> EngineResult<LogStream> {
        let id = id.clone();
        let written = self.call("logs", id.to_string(), move |state, _| {
            if !state.containers.contains_key(&id) {
                return Err(absent("read log", id.as_str()));
            }
            Ok(last_lines(state.logs.get(&id).map_or(&[], Vec::as_slice), request.tail))
        });
        Ok(Box::pin(stream::iter(written.await?.into_iter().map(Ok))))
    }

    async fn container_events(
        &self,
        key: &str,
        value: Option<&str>,
        since: Option<Timestamp>,
    ) -> EngineResult<EventStream> {
        let (stage, clock, spawn) = (&self.stage, &self.clock, &self.spawn);
        let (stage, clock, spawn) = (Arc::clone(stage), Arc::clone(clock), Arc::clone(spawn));
        let (listener, events_received) = Listener::new(key, value, stage, clock, spawn);
        self.call("container_events", key, move |state, _| {
            state.news.listen(listener, since);
            Ok(())
        })
        .await?;
        Ok(events_received)
    }

    async fn create_exec(&self, id: &ContainerId, _request: &ExecRequest) -> EngineResult<ExecId> {
        let refused = |kind, why: &str| Err(EngineError::new(kind, "create exec session", why));
        match self.world.state().containers.get(id) {
            None => refused(ErrorKind::Absent, "no such container"),
            Some(container) if !container.state.may_run() => {
                refused(ErrorKind::Conflict, "container is not running")
            }
            Some(_) => refused(ErrorKind::Other, "the fake engine runs no commands"),
        }
    }

    async fn start_exec(&self, _exec: &ExecId, _tty: bool) -> EngineResult<Box<dyn Duplex>> {
        Err(EngineError::new(ErrorKind::Other, "start exec session", "the fake engine runs no commands"))
    }

    async fn resize_exec(&self, _exec: &ExecId, _columns: u16, _rows: u16) -> EngineResult<()> {
        Ok(())
    }

    async fn exec_exit_code(&self, _exec: &ExecId) -> EngineResult<Option<i32>> {
        Ok(None)
    }
}

/// The last `tail` lines; all of them if `tail` is `None`.
fn last_lines(lines: &[LogChunk], tail: Option<u32>) -> Vec<LogChunk> {
    let kept = tail.map_or(lines.len(), |tail| usize::try_from(tail).unwrap_or(usize::MAX));
    lines[lines.len().saturating_sub(kept)..].to_vec()
}

/// The named volumes that a container mounts.
#[must_use]
pub fn volumes_of(spec: &ContainerSpec) -> Vec<String> {
    let named = spec.mounts.iter().filter_map(|mount| match &mount.source {
        MountSource::Volume(name) => Some(name.clone()),
        MountSource::HostDirectory(_) | MountSource::Tmpfs => None,
    });
    named.collect()
}

/// The environment's values, for tests that search for secrets.
#[must_use]
pub fn exposed(env: &Environment) -> &BTreeMap<String, String> {
    &env.0
}
