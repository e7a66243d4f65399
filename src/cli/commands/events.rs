//! `ostler events`

use std::{collections::HashMap, time::Duration};

use hyper::header::HeaderName;
use serde_json::Value;

use crate::{
    api::{EventView, EventsReset, WorkspaceView},
    cli::{
        Session,
        args::EventsArgs,
        client::workspace,
        failure::Failure,
        frames::Sse,
        output::{self, Tone},
        text,
    },
};

use super::timeline;

/// The first and the longest delay before a lost stream is opened again.
const RECONNECT_FIRST: Duration = Duration::from_millis(250);
const RECONNECT_LAST: Duration = Duration::from_secs(30);

pub(in crate::cli) async fn run(session: &Session<'_>, args: &EventsArgs) -> Result<u8, Failure> {
    let only = match &args.name {
        Some(name) => Some(session.client.get::<WorkspaceView>(&workspace(name)).await?.id),
        None => None,
    };
    let events = recent(session, only.as_deref(), args.limit).await?;
    let mut names = Names::default();
    if session.out.json() && !args.follow {
        session.out.value(&events)?;
        return Ok(0);
    }
    for event in &events {
        show(session, &mut names, event).await?;
    }
    if args.follow {
        let seen = events.last().map_or(0, |event| event.id);
        follow(session, only.as_deref(), seen, &mut names).await?;
    }
    Ok(0)
}

/// The newest events, oldest first.
pub(super) async fn recent(
    session: &Session<'_>,
    only: Option<&str>,
    limit: u32,
) -> Result<Vec<EventView>, Failure> {
    let of_workspace = only.map(|id| format!("/{id}")).unwrap_or_default();
    let mut events: Vec<EventView> =
        session.client.get(&format!("/events{of_workspace}?limit={limit}")).await?;
    events.reverse();
    Ok(events)
}

async fn show(session: &Session<'_>, names: &mut Names, event: &EventView) -> Result<(), Failure> {
    if session.out.json() {
        return session.out.value_line(event);
    }
    let described = timeline::describe(event);
    let time = session.out.paint(Tone::Dim, &described.time);
    let subject = match &event.workspace_id {
        Some(id) => format!("{} ", names.of(session, id, event).await),
        None => String::new(),
    };
    session.out.line(&format!("{time}  {subject}{}", described.line()))
}

/// Prints events until interrupted, across restarts of the daemon: each connection continues after the last sequence
/// number seen.
async fn follow(
    session: &Session<'_>,
    only: Option<&str>,
    mut seen: i64,
    names: &mut Names,
) -> Result<(), Failure> {
    let mut pause = RECONNECT_FIRST;
    let mut connected = false;
    loop {
        let before = seen;
        match listen(session, only, &mut seen, names).await {
            Ok(()) => connected = true,
            Err(failure) if failure.is_unreachable() && connected => {}
            Err(failure) => return Err(failure),
        }
        if seen > before {
            pause = RECONNECT_FIRST;
        } else if pause == RECONNECT_FIRST {
            output::note("The stream ended; waiting for the daemon.");
        }
        // The first tick of an interval completes at once, the second one after the delay.
        let mut timer = tokio::time::interval(pause);
        timer.tick().await;
        timer.tick().await;
        pause = (pause * 2).min(RECONNECT_LAST);
    }
}

/// Prints the events of one connection. Its end is never an error, whatever the cause.
async fn listen(
    session: &Session<'_>,
    only: Option<&str>,
    seen: &mut i64,
    names: &mut Names,
) -> Result<(), Failure> {
    let last = Some((HeaderName::from_static("last-event-id"), seen.to_string()));
    let mut stream = session.client.stream("/events/stream?passing=false", last).await?;
    let mut sse = Sse::default();
    while let Ok(Some(bytes)) = stream.next().await {
        for data in sse.feed(&bytes) {
            if let Ok(reset) = serde_json::from_str::<EventsReset>(&data) {
                output::note("The registry was restored from an older copy: events continue from that copy.");
                *seen = reset.last_event_id;
            }
            let Ok(event) = serde_json::from_str::<EventView>(&data) else { continue };
            if event.id <= *seen {
                continue;
            }
            *seen = event.id;
            if only.is_none_or(|id| event.workspace_id.as_deref() == Some(id)) {
                show(session, names, &event).await?;
            }
        }
    }
    Ok(())
}

/// Names of workspaces by id; each is requested from the daemon only once.
#[derive(Default)]
struct Names(HashMap<String, String>);

impl Names {
    async fn of(&mut self, session: &Session<'_>, id: &str, event: &EventView) -> String {
        if let Some(name) = event.payload.get("name").and_then(Value::as_str) {
            return text::printable(name);
        }
        if let Some(name) = self.0.get(id) {
            return name.clone();
        }
        let name = match session.client.get::<WorkspaceView>(&workspace(id)).await {
            Ok(view) => text::printable(&view.name),
            Err(_) => text::short(id).to_owned(),
        };
        self.0.insert(id.to_owned(), name.clone());
        name
    }
}
