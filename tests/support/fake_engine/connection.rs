//! A connection to the fake engine: carries out each call on a stage, subject to its fault.

use std::sync::Arc;

use ostler::{
    engine::{EngineError, EngineResult, ErrorKind},
    runtime::{
        clock::SharedClock,
        tasks::{SharedSpawn, Stage},
    },
};
use tokio::sync::oneshot;

use super::{
    faults::{Call, Fault},
    state::State,
    world::World,
};

/// A connection to a [`World`].
pub(crate) struct FakeEngine {
    pub(super) world: Arc<World>,
    pub(super) stage: Arc<dyn Stage>,
    pub(super) clock: SharedClock,
    pub(super) spawn: SharedSpawn,
}

impl FakeEngine {
    /// Connects to the engine. `spawn` runs the effects that outlive the caller.
    #[must_use]
    pub(crate) fn connect(
        world: Arc<World>,
        stage: Arc<dyn Stage>,
        clock: SharedClock,
        spawn: SharedSpawn,
    ) -> Self {
        world.state().news.clock = Some(Arc::clone(&clock));
        Self { world, stage, clock, spawn }
    }

    pub(super) async fn call<T: Send + 'static>(
        &self,
        method: &'static str,
        object: impl Into<String>,
        effect: impl FnOnce(&mut State) -> EngineResult<T> + Send + 'static,
    ) -> EngineResult<T> {
        let call = Call { method, object: object.into() };
        let fault = self.world.fault(&call);
        self.carry_out(call, fault, effect).await
    }

    /// Carries out a call whose answer is a listing.
    pub(super) async fn list<T: Send + 'static>(
        &self,
        method: &'static str,
        object: impl Into<String>,
        effect: impl FnOnce(&State) -> Vec<T> + Send + 'static,
    ) -> EngineResult<Vec<T>> {
        let call = Call { method, object: object.into() };
        let fault = self.world.fault(&call);
        let most = if let Fault::Partial(most) = fault { most } else { usize::MAX };
        let effect = move |state: &mut State| {
            let mut listed = effect(state);
            listed.truncate(most);
            Ok(listed)
        };
        self.carry_out(call, fault, effect).await
    }

    pub(super) async fn carry_out<T: Send + 'static>(
        &self,
        call: Call,
        fault: Fault,
        effect: impl FnOnce(&mut State) -> EngineResult<T> + Send + 'static,
    ) -> EngineResult<T> {
        let method = call.method;
        let failure = |kind| EngineError::new(kind, format!("{method} {}", call.object), "injected fault");
        let (reply, answer) = oneshot::channel();
        let world = Arc::clone(&self.world);
        let logged = call.clone();
        let act = move |events_received: bool| {
            world.reached(|state| {
                state.changes += u64::from(changes(logged.method));
                if !events_received {
                    state.lost_exits.insert(state.log.len());
                }
                state.log.push(logged);
                effect(state)
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
