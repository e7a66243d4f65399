//! Events: a list, newest first, and a live stream.

use std::{collections::VecDeque, convert::Infallible};

use axum::{
    Json,
    extract::State,
    http::HeaderMap,
    response::sse::{self, KeepAlive, Sse},
};
use futures_util::{Stream, stream};
use serde::Deserialize;
use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::{
    super::{Api, error::HttpResult, view},
    Path, Query,
};
use crate::{
    api::event::{EventView, EventsReset},
    domain::event::{Event, TransientEvent},
    store::Scope,
};

/// How many events a list has if the query sets no limit.
const LIMIT: u32 = 100;
/// The most events in a list, and in one read of the store for a stream.
const LIMIT_MAX: u32 = 1000;

#[derive(Deserialize)]
pub(in super::super) struct ListQuery {
    limit: Option<u32>,
}

pub(in super::super) async fn list(
    State(api): State<Api>,
    Query(query): Query<ListQuery>,
) -> HttpResult<Json<Vec<EventView>>> {
    let limit = query.limit.unwrap_or(LIMIT).min(LIMIT_MAX);
    let _permit = api.list_permit().await;
    let events = api.0.store.newest_events(None, limit).await?;
    Ok(Json(events.into_iter().map(view::event).collect()))
}

pub(in super::super) async fn list_of(
    State(api): State<Api>,
    Path(reference): Path<String>,
    Query(query): Query<ListQuery>,
) -> HttpResult<Json<Vec<EventView>>> {
    let row = api.resolve(&reference, Scope::Any).await?;
    let limit = query.limit.unwrap_or(LIMIT).min(LIMIT_MAX);
    let _permit = api.list_permit().await;
    let events = api.0.store.newest_events(Some(row.id), limit).await?;
    Ok(Json(events.into_iter().map(view::event).collect()))
}

#[derive(Deserialize)]
pub(in super::super) struct StreamQuery {
    /// Whether to send transient events too, which are not stored (heartbeats, tasks).
    #[serde(default = "yes", alias = "passing")]
    transient: bool,
}

fn yes() -> bool {
    true
}

struct Following {
    api: Api,
    feed: Receiver<Event>,
    /// The feed of transient events, if the client wants them.
    transient: Option<Receiver<TransientEvent>>,
    /// Whether the client has seen events that the registry does not have, so that a `reset` event has to be sent
    /// first.
    ahead: bool,
    /// Sequence number of the last event sent. Events from the feed up to this one are skipped.
    last: i64,
    /// Events that were read and are still to be sent.
    read: VecDeque<Event>,
    /// Whether the store may hold later events that the feed will not deliver. If so, an event from the feed only
    /// triggers another read of the store.
    behind: bool,
}

/// Streams events live, after those that the client missed since its `Last-Event-ID`.
///
/// A client that has seen more events than exist gets a `reset` event first; this happens after the registry was
/// restored from a copy. A client that lags behind the feed catches up from the store, so no stored event is ever
/// skipped. Transient events have no id, are not repeated, and are lost to a client that lags.
pub(in super::super) async fn stream(
    State(api): State<Api>,
    Query(query): Query<StreamQuery>,
    headers: HeaderMap,
) -> HttpResult<Sse<impl Stream<Item = Result<sse::Event, Infallible>>>> {
    // Subscribed before the store is read, so that no event is lost between the two.
    let feed = api.0.store.subscribe();
    let transient = query.transient.then(|| api.0.store.subscribe_transient());
    let seen = headers.get("last-event-id").and_then(|id| id.to_str().ok()).and_then(|id| id.parse().ok());
    let newest = api.0.store.newest_sequence().await?;
    let last = seen.unwrap_or(newest);
    // The client has seen events that this registry does not have: it was restored from an older copy, or it is
    // another registry.
    let ahead = last > newest;
    let last = last.min(newest);
    let following = Following { api, feed, transient, ahead, last, read: VecDeque::new(), behind: true };
    let events = stream::unfold(following, |mut following| async move {
        let sse_event = following.next().await?;
        Some((Ok(sse_event), following))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()))
}

impl Following {
    async fn next(&mut self) -> Option<sse::Event> {
        if std::mem::take(&mut self.ahead) {
            return Some(reset(self.last));
        }
        loop {
            if let Some(event) = self.read.pop_front() {
                if event.id > self.last {
                    self.last = event.id;
                    let (id, text) = (event.id, event.event_type.clone());
                    return Some(match self.api.0.store.with_card(event).await {
                        Ok(event) => sse_event(event),
                        Err(error) => {
                            tracing::warn!(%error, id, text, "event sent without its details");
                            sse::Event::default().id(id.to_string()).event(text).data("{}")
                        }
                    });
                }
                continue;
            }
            if self.behind && self.catch_up().await {
                continue;
            }
            tokio::select! {
                biased;
                event = self.feed.recv() => match event {
                    // The next read of the store returns this event too, in the order of the sequence numbers.
                    Ok(_) if self.behind => {}
                    Ok(event) => self.read.push_back(event),
                    Err(RecvError::Lagged(_)) => self.behind = true,
                    Err(RecvError::Closed) => return None,
                },
                transient = next_transient(&mut self.transient) => return Some(transient_sse_event(transient)),
            }
        }
    }

    /// Reads the next events from the store. Returns `false` if the store does not answer; it is read again at the next
    /// event of the feed.
    async fn catch_up(&mut self) -> bool {
        match self.api.0.store.events_after(self.last, LIMIT_MAX).await {
            Ok(missed) => {
                // A page may be short because its events are large. So only an empty page shows that the last stored
                // event was read. All later events come from the feed.
                self.behind = !missed.is_empty();
                self.read.extend(missed);
                true
            }
            Err(error) => {
                tracing::warn!(%error, "event stream cannot read the store; retrying at the next event");
                false
            }
        }
    }
}

/// Returns the next transient event; never completes if the client does not want them.
async fn next_transient(transient: &mut Option<Receiver<TransientEvent>>) -> TransientEvent {
    if let Some(transient) = transient {
        loop {
            match transient.recv().await {
                Ok(event) => return event,
                Err(RecvError::Lagged(_)) => {}
                // The feed of stored events has been closed too, which ends the stream.
                Err(RecvError::Closed) => break,
            }
        }
    }
    std::future::pending().await
}

fn sse_event(event: Event) -> sse::Event {
    let view = view::event(event);
    let data = serde_json::to_string(&view).unwrap_or_default();
    sse::Event::default().id(view.id.to_string()).event(view.event_type).data(data)
}

/// Builds the `reset` event: the client's sequence numbers are no longer valid, and the stream continues after `last`.
fn reset(last: i64) -> sse::Event {
    let data = EventsReset { reset: true, last_event_id: last };
    let data = serde_json::to_string(&data).unwrap_or_default();
    sse::Event::default().id(last.to_string()).event("reset").data(data)
}

/// Converts a transient event. It has no id, so that a client that reconnects names the last stored event it has seen.
fn transient_sse_event(transient: TransientEvent) -> sse::Event {
    let view = view::transient(transient);
    let data = serde_json::to_string(&view).unwrap_or_default();
    sse::Event::default().event(view.event_type).data(data)
}
