//! Events: the newest first, or as they happen.

use std::{collections::VecDeque, convert::Infallible};

use axum::{
    Json,
    extract::{Path, State},
    http::HeaderMap,
    response::sse::{self, KeepAlive, Sse},
};
use futures_util::{Stream, stream};
use serde::Deserialize;
use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::{
    super::{Api, error::HttpResult, view},
    Query,
};
use crate::{api::EventView, domain::event::Event, store::Scope};

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
    let events = api.0.store.newest_events(Some(row.id), limit).await?;
    Ok(Json(events.into_iter().map(view::event).collect()))
}

struct Following {
    api: Api,
    feed: Receiver<Event>,
    /// The last one sent: what the feed brings again is passed over.
    last: i64,
    /// Read from the store, still to be sent.
    read: VecDeque<Event>,
}

/// Events as they happen, after those the client missed (`Last-Event-ID`). A client that lags behind
/// the feed catches up from the store: no event is ever skipped.
pub(in super::super) async fn stream(
    State(api): State<Api>,
    headers: HeaderMap,
) -> HttpResult<Sse<impl Stream<Item = Result<sse::Event, Infallible>>>> {
    // Subscribed before the store is read, so that nothing falls in between.
    let feed = api.0.store.subscribe();
    let seen = headers.get("last-event-id").and_then(|id| id.to_str().ok()).and_then(|id| id.parse().ok());
    let last = match seen {
        Some(last) => last,
        None => api.0.store.newest_events(None, 1).await?.first().map_or(0, |event| event.id),
    };
    let mut following = Following { api, feed, last, read: VecDeque::new() };
    following.catch_up().await;
    let events = stream::unfold(following, |mut following| async move {
        let event = following.next().await?;
        Some((Ok(told(event)), following))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()))
}

impl Following {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.read.pop_front() {
                if event.id > self.last {
                    self.last = event.id;
                    return Some(event);
                }
                if self.read.is_empty() {
                    self.catch_up().await;
                }
                continue;
            }
            match self.feed.recv().await {
                Ok(event) => self.read.push_back(event),
                Err(RecvError::Lagged(_)) => self.catch_up().await,
                Err(RecvError::Closed) => return None,
            }
        }
    }

    async fn catch_up(&mut self) {
        // A store that gives no answer leaves a gap only until the next event makes us ask again.
        if let Ok(missed) = self.api.0.store.events_after(self.last, LIMIT_MAX).await {
            self.read.extend(missed);
        }
    }
}

fn told(event: Event) -> sse::Event {
    let view = view::event(event);
    let data = serde_json::to_string(&view).unwrap_or_default();
    sse::Event::default().id(view.id.to_string()).event(view.event_type).data(data)
}
