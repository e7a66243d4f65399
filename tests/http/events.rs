//! Events (§5, §9): the list, newest first, and the stream.

use serde_json::{Value, json};

use crate::support::{
    registry::Registry,
    wire::{Ask, Wire, keys_of},
};

/// A client of the event stream.
struct Listener {
    wire: Wire,
    text: String,
}

/// A received event.
#[derive(Debug)]
struct ReceivedEvent {
    id: Option<i64>,
    event: String,
    data: Value,
}

impl Listener {
    async fn begin(registry: &Registry, last: Option<i64>) -> Self {
        let mut ask = Ask::get("/events/stream").token(&registry.admin);
        if let Some(last) = last {
            ask = ask.header("Last-Event-ID", last.to_string());
        }
        let mut wire = Wire::open(registry.address).await;
        wire.write(&ask.bytes()).await;
        let (status, headers) = wire.head().await.expect("an answer");
        let content_type = headers.iter().find(|(name, _)| name == "content-type");
        assert_eq!((status, content_type.map(|(_, value)| value.as_str())), (200, Some("text/event-stream")));
        Self { wire, text: String::new() }
    }

    async fn next(&mut self) -> ReceivedEvent {
        loop {
            if let Some((frame, rest)) = self.text.split_once("\n\n") {
                let (frame, rest) = (frame.to_owned(), rest.to_owned());
                self.text = rest;
                let field =
                    |name: &str| frame.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
                // A frame without data is a comment, which only keeps the connection open.
                let Some(data) = field("data: ") else { continue };
                let id = field("id: ").map(|id| id.parse().expect("a number"));
                let event = field("event: ").expect("a type");
                return ReceivedEvent { id, event, data: serde_json::from_str(&data).expect("JSON") };
            }
            let chunk = self.wire.chunk().await.expect("a complete chunk").expect("the stream is open");
            self.text += &String::from_utf8(chunk).expect("UTF-8");
        }
    }

    async fn next_stored(&mut self) -> ReceivedEvent {
        loop {
            let received = self.next().await;
            if received.id.is_some() {
                return received;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn event_list_has_the_last_hundred_events_newest_first() {
    let registry = Registry::start().await;
    let (one, other) = (registry.online("one").await, registry.online("other").await);
    let third = registry.online("third").await;
    for number in 0..120 {
        let by = if number % 3 == 0 {
            &one
        } else if number % 3 == 1 {
            &other
        } else {
            &third
        };
        let role = json!({ "role": format!("number {number}") });
        registry.order(Ask::new("PATCH", format!("/workspaces/{}", by.id)).json(role)).await.well();
    }
    let events = registry.order(Ask::get("/events")).await.well();
    let events = events.as_array().unwrap();
    assert_eq!(events.len(), 100);
    let numbers: Vec<_> = events.iter().map(|event| event["payload"]["role"].to_string()).collect();
    assert_eq!(numbers, (20..120).rev().map(|number| format!("\"number {number}\"")).collect::<Vec<_>>());
    for event in events {
        assert_eq!(keys_of(event), ["created_at", "event_type", "id", "payload", "workspace_id"]);
    }
    let ids: Vec<_> = events.iter().map(|event| event["id"].as_i64().unwrap()).collect();
    assert!(ids.is_sorted_by(|newer, older| newer > older), "{ids:?}");
    let of_other = registry.events_of(&other.id).await;
    assert!(!of_other.is_empty() && of_other.iter().all(|event| event["workspace_id"] == json!(other.id)));
    assert_eq!(registry.order(Ask::get("/events/6f1c0c5e-0d0f-4c58-9b0e-0a4c1b7e2d11")).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_delivers_events_in_the_format_of_the_list() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    let mut listener = Listener::begin(&registry, None).await;
    one.order("pause").await.well();
    let received = listener.next_stored().await;
    assert_eq!(
        (received.event.as_str(), &received.data["payload"]["name"]),
        ("WORKSPACE_PAUSED", &json!("one"))
    );
    assert_eq!(keys_of(&received.data), ["created_at", "event_type", "id", "payload", "workspace_id"]);
    assert_eq!(
        (received.data["id"].as_i64(), &received.data["event_type"]),
        (received.id, &json!("WORKSPACE_PAUSED"))
    );
    assert_eq!(
        received.data,
        registry.event(&one.id, "WORKSPACE_PAUSED").await,
        "the stream and the list differ"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeat_and_task_events_are_transient_and_have_no_id() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    let stored = registry.events_of(&one.id).await.len();
    let mut listener = Listener::begin(&registry, None).await;
    one.heartbeat(json!({ "active_tasks": 2, "uptime_seconds": 9, "current_task": "dig" })).await.well();
    let received = listener.next().await;
    assert_eq!((received.id, received.event.as_str()), (None, "WORKSPACE_HEARTBEAT"), "{received:?}");
    assert_eq!(received.data["payload"], json!({ "active_tasks": 2, "uptime_seconds": 9 }));
    assert_eq!(keys_of(&received.data), ["created_at", "event_type", "payload", "workspace_id"]);
    assert_eq!(received.data["workspace_id"], json!(one.id));
    let received = listener.next().await;
    assert_eq!((received.id, received.event.as_str()), (None, "TASK_UPDATED"), "{received:?}");
    assert_eq!(received.data["payload"], json!({ "active_tasks": 2, "current_task": "dig" }));
    one.heartbeat(json!({ "active_tasks": 2, "uptime_seconds": 10, "current_task": "dig" })).await.well();
    assert_eq!(listener.next().await.event, "WORKSPACE_HEARTBEAT");
    one.order("pause").await.well();
    assert_eq!(listener.next().await.event, "WORKSPACE_PAUSED", "an unchanged task emits no event");
    let events = registry.events_of(&one.id).await;
    let transient = |event: &&Value| {
        ["WORKSPACE_HEARTBEAT", "TASK_UPDATED"].iter().any(|kind| event["event_type"] == *kind)
    };
    assert!(events.len() > stored, "the pause is stored");
    assert_eq!(events.iter().filter(transient).count(), 0, "transient events are not stored");
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_can_leave_out_transient_events() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    let mut wire = Wire::open(registry.address).await;
    wire.write(&Ask::get("/events/stream?transient=false").token(&registry.admin).bytes()).await;
    assert_eq!(wire.head().await.unwrap().0, 200);
    let mut listener = Listener { wire, text: String::new() };
    one.heartbeat(json!({ "uptime_seconds": 9 })).await.well();
    one.order("pause").await.well();
    assert_eq!(listener.next().await.event, "WORKSPACE_PAUSED");
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_resumes_after_the_last_event_id_even_after_restart() {
    let registry = Registry::start().await;
    let id = registry.online("one").await.id;
    let mut listener = Listener::begin(&registry, None).await;
    registry.order(Ask::post(format!("/workspaces/{id}/pause"))).await.well();
    let mut seen = listener.next_stored().await;
    while (seen.event.as_str(), &seen.data["payload"]["kind"]) != ("OPERATION_ENDED", &json!("stop")) {
        seen = listener.next_stored().await;
    }
    let seen = seen.id.unwrap();
    drop(listener);
    registry.order(Ask::post(format!("/workspaces/{id}/resume"))).await.well();
    let expected = Some(seen + 1);
    let received = Listener::begin(&registry, Some(seen)).await.next_stored().await;
    assert_eq!((received.id, received.event.as_str()), (expected, "OPERATION_ACCEPTED"));

    let registry = registry.restart().await;
    let mut listener = Listener::begin(&registry, Some(seen)).await;
    let received = listener.next_stored().await;
    assert_eq!(
        (received.id, received.event.as_str()),
        (expected, "OPERATION_ACCEPTED"),
        "a restart changes the resume position"
    );
    registry.order(Ask::post(format!("/workspaces/{id}/pause"))).await.well();
    loop {
        let received = listener.next_stored().await;
        if received.event == "WORKSPACE_PAUSED" {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_is_reset_when_client_is_ahead_of_the_registry() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    let newest = registry.order(Ask::get("/events?limit=1")).await.well()[0]["id"].as_i64();
    let mut listener = Listener::begin(&registry, newest.map(|newest| newest + 1000)).await;
    let received = listener.next_stored().await;
    assert_eq!((received.event.as_str(), received.id), ("reset", newest), "{received:?}");
    assert_eq!(received.data, json!({ "reset": true, "last_event_id": newest }));
    one.order("pause").await.well();
    assert_eq!(
        listener.next_stored().await.event,
        "WORKSPACE_PAUSED",
        "the stream continues after the reset"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn card_is_stored_once_and_shown_in_its_newest_event_only() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    let send = |number: u32| {
        let card = json!({ "number": number, "text": "x".repeat(30_000) });
        one.ask(
            Ask::post("/registry/update-card").json(json!({ "workspace_id": one.id, "agent_card": card })),
        )
    };
    let mut listener = Listener::begin(&registry, None).await;
    for number in [1, 1, 2, 1] {
        send(number).await.well();
    }
    assert_eq!(listener.next_stored().await.event, "AGENT_CARD_UPDATED");
    let events: Vec<_> = registry.events_of(&one.id).await;
    let cards: Vec<_> = events.iter().filter(|event| event["event_type"] == "AGENT_CARD_UPDATED").collect();
    assert_eq!(cards.len(), 3, "an unchanged card emits no event");
    assert_eq!(cards[0]["payload"]["agent_card"]["number"], json!(1), "{}", cards[0]["payload"]);
    for older in &cards[1..] {
        assert!(older["payload"]["agent_card_digest"].is_string(), "{}", older["payload"]);
    }
    let sql = rusqlite::Connection::open(registry.database()).unwrap();
    let longest: i64 =
        sql.query_row("SELECT max(octet_length(payload)) FROM events", [], |row| row.get(0)).unwrap();
    assert!(longest < 4096, "an event of {longest} bytes contains a card");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_flapping_agent_are_limited_and_it_stays_degraded() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    for _ in 0..60 {
        one.heartbeat(json!({ "error_rate": 1.0, "uptime_seconds": 1 })).await.well();
        assert_eq!(one.status().await, "degraded");
        one.heartbeat(json!({ "error_rate": 0.0, "uptime_seconds": 1 })).await.well();
    }
    assert_eq!(one.status().await, "degraded", "a flapping agent stays degraded");
    let events = registry.order(Ask::get(format!("/events/{}?limit=1000", one.id))).await.well();
    let count = |kind| events.as_array().unwrap().iter().filter(|event| event["event_type"] == kind).count();
    assert!(count("WORKSPACE_DEGRADED") <= 21, "{} WORKSPACE_DEGRADED events", count("WORKSPACE_DEGRADED"));
    assert!(count("WORKSPACE_ONLINE") <= 21, "{} WORKSPACE_ONLINE events", count("WORKSPACE_ONLINE"));
}

#[tokio::test(flavor = "multi_thread")]
async fn resumed_stream_delivers_every_missed_event() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    let sql = rusqlite::Connection::open(registry.database()).unwrap();
    sql.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
    let before: i64 = sql.query_row("SELECT max(sequence) FROM events", [], |row| row.get(0)).unwrap();
    sql.execute(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2500)
         INSERT INTO events (event_type, workspace, payload, created_at)
         SELECT 'CONTAINER_STOPPED', NULL, '{}', 1 FROM n",
        [],
    )
    .unwrap();
    let mut listener = Listener::begin(&registry, Some(before)).await;
    for expected in 1..=2500 {
        assert_eq!(listener.next_stored().await.id, Some(before + expected));
    }
    one.order("pause").await.well();
    assert_eq!(listener.next_stored().await.id, Some(before + 2501));
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_last_event_id_is_ignored() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    let ask = Ask::get("/events/stream").token(&registry.admin).header("Last-Event-ID", "the last one");
    let mut wire = Wire::open(registry.address).await;
    wire.write(&ask.bytes()).await;
    assert_eq!(wire.head().await.unwrap().0, 200);
    one.order("pause").await.well();
    let mut listener = Listener { wire, text: String::new() };
    assert_eq!(listener.next_stored().await.event, "WORKSPACE_PAUSED");
}

#[tokio::test(flavor = "multi_thread")]
async fn daemon_stops_while_a_stream_is_open() {
    let registry = Registry::start().await;
    let listener = Listener::begin(&registry, None).await;
    let registry = registry.restart().await;
    registry.ask(Ask::get("/health")).await.well();
    drop(listener);
}

#[tokio::test(flavor = "multi_thread")]
async fn offline_event_has_the_exit_code_and_log_tail() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    let container = registry.row(&one.id).await.container.unwrap();
    one.kill_container().await;
    registry.sweep(&["check_containers"]).await;
    registry.sweep(&["check_containers"]).await;
    let event = registry.event(&one.id, "WORKSPACE_OFFLINE").await;
    for key in ["reason", "exit_code", "oom", "log_tail"] {
        assert!(event["payload"].get(key).is_some(), "{key} of {event} ({container})");
    }
    assert_eq!(event["payload"]["exit_code"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_and_answers_never_show_a_token() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    let issued = registry.order(Ask::post(format!("/workspaces/{}/tokens", one.id))).await.json();
    let api = issued["auth_token"].as_str().unwrap().to_owned();
    one.order("restart").await.well();
    let now = registry.token_in_volume(&one.id).await;
    for path in
        ["/events".to_owned(), "/workspaces".into(), format!("/workspaces/{}", one.id), "/sweeps".into()]
    {
        let body = registry.order(Ask::get(&path)).await.text();
        for token in [&one.token, &api, &now, &registry.admin] {
            assert!(!body.contains(token.as_str()), "{path} shows a token");
        }
    }
}
