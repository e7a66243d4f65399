//! Container events of the fake engine, and their faults.
//!
//! The delivery of an event is a separate effect on the listener's [`Stage`], so the owner of the stage decides which
//! effects come first. Events for one listener stay in order, as on a connection, except where a fault changes the
//! order.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::stream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use ostler::{
    domain::{
        ids::ContainerId,
        naming::LABEL_WORKSPACE,
        observed::{ContainerEvent, ContainerEventKind},
        time::Timestamp,
    },
    engine::{EngineError, EngineResult, ErrorKind, EventStream},
    runtime::{
        clock::SharedClock,
        tasks::{SharedSpawn, Stage},
    },
};

/// Fault injected into the delivery of an event to a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EventFault {
    /// The event arrives.
    None,
    /// The event never arrives.
    Lost,
    /// The event arrives twice.
    Twice,
    /// The event arrives after this delay; later events may arrive before it.
    Late(Duration),
    /// The event does not arrive: the stream ends, with this error or without one.
    End(Option<ErrorKind>),
}

pub(super) type EventHook = Box<dyn FnMut(&ContainerEvent) -> EventFault + Send>;

type Item = EngineResult<ContainerEvent>;

/// One event subscription. It lasts until its stream is dropped.
pub(super) struct Listener {
    key: String,
    value: Option<String>,
    line: Arc<Line>,
    stage: Arc<dyn Stage>,
    clock: SharedClock,
    spawn: SharedSpawn,
}

/// Queue of a listener. The stage decides *when* an item arrives; the item that arrives is always the oldest.
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
    /// Creates a listener for containers with this label, and the stream that delivers its events.
    pub(super) fn new(
        key: &str,
        value: Option<&str>,
        stage: Arc<dyn Stage>,
        clock: SharedClock,
        spawn: SharedSpawn,
    ) -> (Self, EventStream) {
        let (arrived, received) = unbounded_channel();
        let line = Arc::new(Line { under_way: Mutex::default(), arrived });
        let listener =
            Self { key: key.to_owned(), value: value.map(str::to_owned), line, stage, clock, spawn };
        let received = stream::unfold(received, |mut received: UnboundedReceiver<Item>| async {
            received.recv().await.map(|item| (item, received))
        });
        (listener, Box::pin(received))
    }

    fn send(&self, item: Item) {
        send(&self.line, &*self.stage, item);
    }

    /// Delivers the event, subject to the fault. Returns whether the listener stays subscribed.
    fn deliver(&self, event: &ContainerEvent, fault: EventFault) -> bool {
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
            EventFault::End(kind) => {
                self.end(kind);
                return false;
            }
        }
        true
    }

    fn end(&self, kind: Option<ErrorKind>) {
        if let Some(kind) = kind {
            self.send(Err(EngineError::new(kind, "container_events", "injected fault")));
        }
    }
}

fn send(line: &Arc<Line>, stage: &dyn Stage, item: Item) {
    line.under_way().push_back(item);
    let line = Arc::clone(line);
    let arrive = move || {
        let oldest = line.under_way().pop_front();
        if let Some(item) = oldest {
            // The stream may have been dropped.
            let _ = line.arrived.send(item);
        }
    };
    stage.submit("container_event", Box::new(arrive));
}

/// All past events, and the listeners for new ones.
#[derive(Default)]
pub(super) struct News {
    /// Source of event times; until an engine connects, events have the default timestamp.
    pub(super) clock: Option<SharedClock>,
    pub(super) faults: Option<EventHook>,
    listeners: Vec<Listener>,
    past: Vec<(BTreeMap<String, String>, ContainerEvent)>,
}

impl News {
    /// Emits an event for a container with these labels.
    pub(super) fn emit(
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
            // A listener whose stream was dropped is removed.
            !listener.line.arrived.is_closed() && is_subscribed_to(listener, labels, &event, faults)
        });
        past.push((labels.clone(), event));
    }

    /// Adds a listener. It first receives the events since `since`.
    pub(super) fn listen(&mut self, listener: Listener, since: Option<Timestamp>) {
        let Self { clock: _, faults, listeners, past } = self;
        let missed = past.iter().filter(|(_, event)| since.is_some_and(|since| event.at >= since));
        for (labels, event) in missed {
            if !is_subscribed_to(&listener, labels, event, faults) {
                return;
            }
        }
        listeners.push(listener);
    }

    /// Ends every stream, with this error or without one.
    pub(super) fn end(&mut self, kind: Option<ErrorKind>) {
        for listener in self.listeners.drain(..) {
            listener.end(kind);
        }
    }

    /// Number of listeners whose stream is still open.
    pub(super) fn listeners(&self) -> usize {
        self.listeners.iter().filter(|listener| !listener.line.arrived.is_closed()).count()
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.as_ref().map(|clock| clock.now()).unwrap_or_default()
    }
}

fn is_subscribed_to(
    listener: &Listener,
    labels: &BTreeMap<String, String>,
    event: &ContainerEvent,
    faults: &mut Option<EventHook>,
) -> bool {
    if !super::state::labelled(labels, &listener.key, listener.value.as_deref()) {
        return true;
    }
    let fault = faults.as_mut().map_or(EventFault::None, |hook| hook(event));
    listener.deliver(event, fault)
}
