//! The fake's events: what it reports of containers, and how that goes wrong.
//!
//! An event is an effect of its own: it reaches a listener on the listener's [`Stage`], so whoever owns
//! the stage decides what else happens before. Those of one listener stay in order, as on a connection,
//! except where a fault says otherwise.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::stream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::{
    clock::SharedClock,
    domain::{
        ids::ContainerId,
        naming::LABEL_WORKSPACE,
        observed::{ContainerEvent, ContainerEventKind},
        time::Timestamp,
    },
    engine::{EngineError, EngineResult, EventStream, Trouble},
    tasks::{SharedSpawn, Stage},
};

/// What goes wrong with an event on its way to a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventFault {
    /// Nothing.
    None,
    /// It never arrives.
    Lost,
    /// It arrives twice.
    Twice,
    /// It arrives after this long; later ones overtake it.
    Late(Duration),
    /// It does not arrive: the stream ends, with this error or without one.
    End(Option<Trouble>),
}

pub(super) type EventHook = Box<dyn FnMut(&ContainerEvent) -> EventFault + Send>;

type Item = EngineResult<ContainerEvent>;

/// Somebody who listens, until nobody reads any more.
pub(super) struct Listener {
    key: String,
    value: Option<String>,
    line: Arc<Line>,
    stage: Arc<dyn Stage>,
    clock: SharedClock,
    spawn: SharedSpawn,
}

/// The way to a listener. The stage says *when* something arrives; what it is, is the oldest there is.
struct Line {
    under_way: Mutex<VecDeque<Item>>,
    arrived: UnboundedSender<Item>,
}

impl Line {
    fn under_way(&self) -> MutexGuard<'_, VecDeque<Item>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listener {
    /// A listener to containers with this label, and the stream it hears them by.
    pub(super) fn new(
        key: &str,
        value: Option<&str>,
        stage: Arc<dyn Stage>,
        clock: SharedClock,
        spawn: SharedSpawn,
    ) -> (Self, EventStream) {
        let (arrived, heard) = unbounded_channel();
        let line = Arc::new(Line { under_way: Mutex::default(), arrived });
        let listener =
            Self { key: key.to_owned(), value: value.map(str::to_owned), line, stage, clock, spawn };
        let heard = stream::unfold(heard, |mut heard: UnboundedReceiver<Item>| async {
            heard.recv().await.map(|item| (item, heard))
        });
        (listener, Box::pin(heard))
    }

    fn send(&self, item: Item) {
        send(&self.line, &*self.stage, item);
    }

    /// Sends it unless something is wrong with that. Answers whether the listener hears what follows.
    fn hear(&self, event: &ContainerEvent, fault: EventFault) -> bool {
        match fault {
            EventFault::None => self.send(Ok(event.clone())),
            EventFault::Lost => {}
            EventFault::Twice => {
                self.send(Ok(event.clone()));
                self.send(Ok(event.clone()));
            }
            EventFault::Late(delay) => {
                let (line, stage, clock) = (&self.line, &self.stage, &self.clock);
                let (line, stage, clock) = (Arc::clone(line), Arc::clone(stage), Arc::clone(clock));
                let event = event.clone();
                self.spawn.spawn(Box::pin(async move {
                    clock.sleep(delay).await;
                    send(&line, &*stage, Ok(event));
                }));
            }
            EventFault::End(trouble) => {
                self.end(trouble);
                return false;
            }
        }
        true
    }

    fn end(&self, trouble: Option<Trouble>) {
        if let Some(trouble) = trouble {
            self.send(Err(EngineError::new(trouble, "container_events", "injected fault")));
        }
    }
}

fn send(line: &Arc<Line>, stage: &dyn Stage, item: Item) {
    line.under_way().push_back(item);
    let line = Arc::clone(line);
    let arrive = move || {
        let oldest = line.under_way().pop_front();
        if let Some(item) = oldest {
            // Nobody may be reading any more.
            let _ = line.arrived.send(item);
        }
    };
    stage.submit("container_event", Box::new(arrive));
}

/// Everything that happened to containers, and those who are told.
#[derive(Default)]
pub(super) struct News {
    /// Tells when something happens; a world that nobody has connected to has no time.
    pub(super) clock: Option<SharedClock>,
    pub(super) faults: Option<EventHook>,
    listeners: Vec<Listener>,
    past: Vec<(BTreeMap<String, String>, ContainerEvent)>,
}

impl News {
    /// Something happened to a container with these labels.
    pub(super) fn tell(
        &mut self,
        container: &ContainerId,
        labels: &BTreeMap<String, String>,
        what: ContainerEventKind,
    ) {
        let event = ContainerEvent {
            container: container.clone(),
            workspace: labels.get(LABEL_WORKSPACE).and_then(|label| label.parse().ok()),
            what,
            at: self.now(),
        };
        let Self { clock: _, faults, listeners, past } = self;
        listeners.retain(|listener| {
            // A reader that is gone takes its listener along.
            !listener.line.arrived.is_closed() && hears(listener, labels, &event, faults)
        });
        past.push((labels.clone(), event));
    }

    /// Somebody listens from now on, and hears first what has happened since.
    pub(super) fn listen(&mut self, listener: Listener, since: Option<Timestamp>) {
        let Self { clock: _, faults, listeners, past } = self;
        let missed = past.iter().filter(|(_, event)| since.is_some_and(|since| event.at >= since));
        for (labels, event) in missed {
            if !hears(&listener, labels, event, faults) {
                return;
            }
        }
        listeners.push(listener);
    }

    /// Every stream ends, with this error or without one.
    pub(super) fn end(&mut self, trouble: Option<Trouble>) {
        for listener in self.listeners.drain(..) {
            listener.end(trouble);
        }
    }

    /// How many listen.
    pub(super) fn listeners(&self) -> usize {
        self.listeners.iter().filter(|listener| !listener.line.arrived.is_closed()).count()
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.as_ref().map(|clock| clock.now()).unwrap_or_default()
    }
}

fn hears(
    listener: &Listener,
    labels: &BTreeMap<String, String>,
    event: &ContainerEvent,
    faults: &mut Option<EventHook>,
) -> bool {
    if !super::labelled(labels, &listener.key, listener.value.as_deref()) {
        return true;
    }
    let fault = faults.as_mut().map_or(EventFault::None, |hook| hook(event));
    listener.hear(event, fault)
}
