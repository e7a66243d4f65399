//! Events: the newest first, or as they happen.

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
    api::{EventView, EventsReset},
    domain::event::{Event, Passing},
    store::Scope,
};

/// How many events are answered where nobody says.
const LIMIT: u32 = 100;
/// The most that are read at once.
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
    /// Whether what is told and not stored (beats, tasks) is wanted too.
    #[serde(default = "yes")]
    passing: bool,
}

fn yes() -> bool {
    true
}

struct Following {
    api: Api,
    feed: Receiver<Event>,
    /// What is only passing, if it is wanted.
    passing: Option<Receiver<Passing>>,
    /// Whether the client is ahead of the registry, and has to be told first.
    ahead: bool,
    /// The last one sent: what the feed brings again is passed over.
    last: i64,
    /// Read from the store, still to be sent.
    read: VecDeque<Event>,
    /// Whether the store may hold events after those read that the feed will not bring: then the feed is only a sign
    /// that it is time to read again.
    behind: bool,
}

/// Events as they happen, after those the client missed (`Last-Event-ID`), and between them what is only passing. A
/// client that has seen more than there is (the registry was restored from a copy) gets a `reset` first. A
/// client that lags behind the feed catches up from the store: no stored event is ever skipped. What is passing has
/// no id, is not repeated, and is lost to a client that lags.
pub(in super::super) async fn stream(
    State(api): State<Api>,
    Query(query): Query<StreamQuery>,
    headers: HeaderMap,
) -> HttpResult<Sse<impl Stream<Item = Result<sse::Event, Infallible>>>> {
    // Subscribed before the store is read, so that nothing falls in between.
    let feed = api.0.store.subscribe();
    let passing = query.passing.then(|| api.0.store.overhear());
    let seen = headers.get("last-event-id").and_then(|id| id.to_str().ok()).and_then(|id| id.parse().ok());
    let newest = api.0.store.newest_sequence().await?;
    let last = seen.unwrap_or(newest);
    // The client has seen events that this registry does not have: it was restored from an older copy, or is another.
    let ahead = last > newest;
    let last = last.min(newest);
    let following = Following { api, feed, passing, ahead, last, read: VecDeque::new(), behind: true };
    let events = stream::unfold(following, |mut following| async move {
        let told = following.next().await?;
        Some((Ok(told), following))
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
                        Ok(event) => told(event),
                        Err(error) => {
                            tracing::warn!(%error, id, text, "an event is sent without its particulars");
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
                    // The store, which is asked again now, has this one too, in its place.
                    Ok(_) if self.behind => {}
                    Ok(event) => self.read.push_back(event),
                    Err(RecvError::Lagged(_)) => self.behind = true,
                    Err(RecvError::Closed) => return None,
                },
                passing = overheard(&mut self.passing) => return Some(told_in_passing(passing)),
            }
        }
    }

    /// Reads what comes next from the store. Answers whether there is anything to send or to read at once: a store
    /// that gives no answer is asked again at the next event.
    async fn catch_up(&mut self) -> bool {
        match self.api.0.store.events_after(self.last, LIMIT_MAX).await {
            Ok(missed) => {
                // Large events come in short pages: only an empty one is the end, and from there the feed has everything.
                self.behind = !missed.is_empty();
                self.read.extend(missed);
                true
            }
            Err(error) => {
                tracing::warn!(%error, "a listener to events waits for the store");
                false
            }
        }
    }
}

/// The next that is only passing; never, where it is not wanted.
async fn overheard(passing: &mut Option<Receiver<Passing>>) -> Passing {
    if let Some(passing) = passing {
        loop {
            match passing.recv().await {
                Ok(event) => return event,
                Err(RecvError::Lagged(_)) => {}
                // The feed has ended too, and says so.
                Err(RecvError::Closed) => break,
            }
        }
    }
    std::future::pending().await
}

fn told(event: Event) -> sse::Event {
    let view = view::event(event);
    let data = serde_json::to_string(&view).unwrap_or_default();
    sse::Event::default().id(view.id.to_string()).event(view.event_type).data(data)
}

/// Tells a client that the sequence it knows has ended, and after which event it goes on.
fn reset(last: i64) -> sse::Event {
    let data = EventsReset { reset: true, last_event_id: last };
    let data = serde_json::to_string(&data).unwrap_or_default();
    sse::Event::default().id(last.to_string()).event("reset").data(data)
}

/// Without an id, so that a client that comes back says the last stored one it has seen.
fn told_in_passing(passing: Passing) -> sse::Event {
    let view = view::passing(passing);
    let data = serde_json::to_string(&view).unwrap_or_default();
    sse::Event::default().event(view.event_type).data(data)
}
