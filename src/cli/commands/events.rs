//! `ostler events`

use std::{collections::HashMap, time::Duration};

use hyper::header::HeaderName;
use serde_json::Value;

use crate::{
    api::{
        event::{EventView, EventsReset},
        workspace::WorkspaceView,
    },
    cli::{
        client::workspace,
        failure::Failure,
        frames::Sse,
        output::{self, Tone},
        session::Session,
        text, timeline,
    },
};

use clap::builder::NonEmptyStringValueParser;

/// Print recent events, oldest first
#[derive(Debug, clap::Args)]
#[command(after_help = "\
With `--json` and `-f`, prints one event per line.

Examples:
  ostler events -n 50
  ostler events -f builder")]
pub(in crate::cli) struct Args {
    /// Print only events of this workspace
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: Option<String>,
    /// Continue to print new events, also across restarts of the daemon
    #[arg(long, short)]
    follow: bool,
    /// Print every field of the events, with whole ids
    #[arg(long, short)]
    verbose: bool,
    /// Number of events to print
    #[arg(
        long,
        short = 'n',
        value_name = "COUNT",
        default_value_t = 20,
        value_parser = clap::value_parser!(u32).range(1..),
        allow_negative_numbers = true
    )]
    limit: u32,
}

/// Delay before a lost stream is opened again the first time. It grows with each attempt, up to `RECONNECT_LAST`.
const RECONNECT_FIRST: Duration = Duration::from_millis(250);
const RECONNECT_LAST: Duration = Duration::from_secs(30);

pub(in crate::cli) async fn run(session: &Session<'_>, args: &Args) -> Result<u8, Failure> {
    let only = match &args.name {
        Some(name) => Some(session.client.get::<WorkspaceView>(&workspace(name)).await?.id),
        None => None,
    };
    let events = recent(session, only.as_deref(), args.limit).await?;
    let mut printer = Printer { verbose: args.verbose, names: HashMap::new() };
    if session.out.json() && !args.follow {
        session.out.value(&events)?;
        return Ok(0);
    }
    for event in &events {
        show(session, &mut printer, event).await?;
    }
    if args.follow {
        let seen = events.last().map_or(0, |event| event.id);
        follow(session, only.as_deref(), seen, &mut printer).await?;
    }
    Ok(0)
}

/// Returns the newest events in chronological order.
pub(super) async fn recent(
    session: &Session<'_>,
    only: Option<&str>,
    limit: u32,
) -> Result<Vec<EventView>, Failure> {
    let whose = only.map(|id| format!("/{id}")).unwrap_or_default();
    let mut events: Vec<EventView> = session.client.get(&format!("/events{whose}?limit={limit}")).await?;
    events.reverse();
    Ok(events)
}

async fn show(session: &Session<'_>, printer: &mut Printer, event: &EventView) -> Result<(), Failure> {
    if session.out.json() {
        return session.out.value_line(event);
    }
    let line = if printer.verbose { timeline::describe(event).line() } else { timeline::brief(event) };
    let time = session.out.paint(Tone::Dim, &text::local(&event.created_at));
    let whose = match &event.workspace_id {
        Some(id) => format!("{} ", printer.name_of(session, id, event).await),
        None => String::new(),
    };
    session.out.line(&format!("{time}  {whose}{line}"))
}

/// Prints events until interrupted, also across restarts of the daemon: each new connection continues after the last
/// sequence number that was received.
async fn follow(
    session: &Session<'_>,
    only: Option<&str>,
    mut seen: i64,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let mut pause = RECONNECT_FIRST;
    let mut connected = false;
    loop {
        let before = seen;
        match listen(session, only, &mut seen, printer).await {
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

/// Prints the events of one connection. The end of the connection is not an error, whatever its cause.
async fn listen(
    session: &Session<'_>,
    only: Option<&str>,
    seen: &mut i64,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let last = Some((HeaderName::from_static("last-event-id"), seen.to_string()));
    let mut stream = session.client.stream("/events/stream?transient=false", last).await?;
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
                show(session, printer, &event).await?;
            }
        }
    }
    Ok(())
}

/// How events are printed.
struct Printer {
    /// Whether every field is printed.
    verbose: bool,
    /// Names of workspaces by id; each is requested from the daemon only once.
    names: HashMap<String, String>,
}

impl Printer {
    async fn name_of(&mut self, session: &Session<'_>, id: &str, event: &EventView) -> String {
        if let Some(name) = event.payload.get("name").and_then(Value::as_str) {
            return text::printable(name);
        }
        if let Some(name) = self.names.get(id) {
            return name.clone();
        }
        let name = match session.client.get::<WorkspaceView>(&workspace(id)).await {
            Ok(view) => text::printable(&view.name),
            Err(_) => text::short(id).to_owned(),
        };
        self.names.insert(id.to_owned(), name.clone());
        name
    }
}
