//! Imitations of existing client programs that register, poll and report. Each is reduced to the observed behaviour.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::{
    registry::{AgentClient, Registry, until},
    wire::Ask,
};

/// A message in the form that peers send.
fn message(text: &str) -> Value {
    json!({
        "jsonrpc": "2.0", "id": "1", "method": "message/send",
        "params": { "message": { "messageId": "m", "role": "user", "parts": [{ "kind": "text", "text": text }] } },
    })
}

/// The existing program that is imitated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Program {
    /// Handles every row of the type it queries; reads the text from `data`. Replies to peers and users.
    Sdk,
    /// Handles every row of the type it queries; reads the text from the message. Replies only to peers, without
    /// X-Workspace-ID.
    Cli,
    /// Queries without a type and handles only the messages of users.
    Bridge,
}

/// A running program; its cursor is its only state.
struct Poller<'r> {
    program: Program,
    agent: AgentClient<'r>,
    cursor: Option<String>,
    /// Whether the program has stopped permanently, as the CLI does on most errors.
    stopped: bool,
    /// Ids of the rows that the program's message handler was called with, and their texts.
    handled: Vec<(String, String)>,
    /// Number of rows without an identifiable sender, for which the SDK's handler raises an exception.
    raised: usize,
}

impl<'r> Poller<'r> {
    fn new(program: Program, agent: AgentClient<'r>) -> Self {
        Self { program, agent, cursor: None, stopped: false, handled: Vec::new(), raised: 0 }
    }

    /// Polls once; returns the number of rows that the program handled as new messages.
    async fn poll(&mut self) -> usize {
        if self.stopped {
            return 0;
        }
        let mut query: Vec<String> = match self.program {
            Program::Sdk => vec!["type=a2a_receive".into(), "limit=100".into()],
            Program::Cli => vec!["type=a2a_receive".into(), "limit=50".into()],
            Program::Bridge if self.cursor.is_none() => vec!["since_secs=30".into()],
            Program::Bridge => Vec::new(),
        };
        query.extend(self.cursor.as_ref().map(|cursor| format!("since_id={cursor}")));
        let path = format!("/workspaces/{}/activity?{}", self.agent.id, query.join("&"));
        let answer = self.agent.ask(Ask::get(path)).await;
        match answer.status {
            200 => {}
            410 => {
                self.cursor = None;
                return 0;
            }
            status => {
                self.stopped = (400..500).contains(&status);
                return 0;
            }
        }
        let rows = answer.json().as_array().expect("a bare array").clone();
        let mut taken = 0;
        for row in &rows {
            // The last row of a page is the cursor. The first page is in descending order, so its last row is the
            // oldest.
            self.cursor = row["id"].as_str().map(ToOwned::to_owned);
            taken += usize::from(self.take(row).await);
        }
        taken
    }

    /// Handles a row if it is a message for this program, and replies to it.
    async fn take(&mut self, row: &Value) -> bool {
        let source = row["source_id"].as_str();
        let text = match self.program {
            Program::Sdk => row["data"]["text"].as_str().unwrap_or_default().to_owned(),
            Program::Cli => {
                let text = row["request_body"]["params"]["message"]["parts"][0]["text"].as_str();
                text.unwrap_or_default().to_owned()
            }
            Program::Bridge if source.is_some() || row["method"] == "notify" => return false,
            Program::Bridge => row["summary"].as_str().unwrap_or_default().to_owned(),
        };
        self.handled.push((row["id"].as_str().expect("a row has an id").to_owned(), text.clone()));
        let kind = row["data"]["source"].as_str();
        match (self.program, source) {
            (_, Some(peer)) => {
                let mut reply =
                    Ask::post(format!("/workspaces/{peer}/a2a")).json(message(&format!("re: {text}")));
                if self.program == Program::Sdk {
                    reply = reply.header("X-Workspace-ID", &self.agent.id);
                }
                self.agent.ask(reply).await.well();
            }
            (Program::Sdk, None) if kind == Some("canvas_user") => self.notify(&text).await,
            (Program::Sdk, None) => self.raised += 1,
            (Program::Bridge, None) => self.notify(&text).await,
            (Program::Cli, None) => {}
        }
        true
    }

    async fn notify(&self, text: &str) {
        let body = json!({ "message": format!("re: {text}") });
        self.agent.ask(Ask::post(format!("/workspaces/{}/notify", self.agent.id)).json(body)).await.well();
    }
}

/// Registers as the program does. The SDK sends no delivery mode, and a URL in a scheme of its own.
async fn register(program: Program, agent: &AgentClient<'_>) {
    let body = match program {
        Program::Sdk => json!({ "url": "remote://no-inbound" }),
        Program::Cli | Program::Bridge => json!({ "url": "", "delivery_mode": "poll" }),
    };
    agent.register(body).await.is(200, r#"{"status":"registered","delivery_mode":"poll"}"#);
}

#[tokio::test(flavor = "multi_thread")]
async fn polling_client_handles_each_message_and_never_its_own_replies() {
    for program in [Program::Sdk, Program::Cli, Program::Bridge] {
        let registry = Registry::start().await;
        let agent = registry.external("poller", json!({})).await;
        register(program, &agent).await;
        let peer = registry.external("peer", json!({ "delivery_mode": "poll" })).await;
        let mut poller = Poller::new(program, agent.clone());
        assert_eq!(poller.poll().await, 0, "{program:?}: no message was sent yet");
        for number in 0..3 {
            peer.send_message(&agent, message(&format!("peer {number}"))).await.well();
            let user =
                Ask::post(format!("/workspaces/{}/a2a", agent.id)).json(message(&format!("user {number}")));
            registry.order(user).await.well();
        }
        for _ in 0..4 {
            poller.poll().await;
        }
        let before = poller.handled.len();
        for _ in 0..3 {
            assert_eq!(
                poller.poll().await,
                0,
                "{program:?} treats old rows as new messages: {:?}",
                poller.handled
            );
        }
        let texts: Vec<&str> = poller.handled.iter().map(|(_, text)| text.as_str()).collect();
        if program == Program::Bridge {
            // It reads the summary, which is the same for every message, so its messages are compared by id.
            let path = format!("/workspaces/{}/activity?limit=500", agent.id);
            let rows = agent.ask(Ask::get(path)).await.well();
            let rows = rows.as_array().unwrap();
            let of_users = rows.iter().filter(|row| row["source_id"].is_null() && row["method"] != "notify");
            let expected: BTreeSet<&str> = of_users.map(|row| row["id"].as_str().unwrap()).collect();
            let handled: BTreeSet<&str> = poller.handled.iter().map(|(id, _)| id.as_str()).collect();
            assert_eq!((expected.len(), handled), (3, expected), "the bridge handles the messages of users");
        } else {
            // The handler of the SDK is also called for its own notices, which have no text.
            let handled: BTreeSet<&str> = texts.iter().copied().filter(|text| !text.is_empty()).collect();
            let expected = ["peer 0", "peer 1", "peer 2", "user 0", "user 1", "user 2"];
            assert_eq!(handled, BTreeSet::from(expected), "{program:?}: missed messages, or its own replies");
        }
        // The limit allows two calls per message, because the programs read the first page twice. It also allows one
        // call for each notice that the SDK sent, on which its handler fails.
        let most = if program == Program::Bridge { 2 * 3 } else { 2 * 6 + 6 };
        assert!(before <= most, "{program:?} was called {before} times");
        assert!(!poller.stopped, "{program:?} has stopped");
        // The program's replies are stored as messages of the peer, one for each call of the message handler for that
        // peer.
        let path = format!("/workspaces/{}/activity?type=a2a_receive&limit=500", peer.id);
        let replies = peer.ask(Ask::get(path)).await.well();
        let replies = replies.as_array().unwrap().len();
        let from_peer = texts.iter().filter(|text| text.starts_with("peer ")).count();
        assert_eq!(replies, from_peer, "{program:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn polling_client_restarts_without_a_cursor_after_a_410() {
    for program in [Program::Sdk, Program::Cli, Program::Bridge] {
        let registry = Registry::start().await;
        let agent = registry.external("poller", json!({})).await;
        register(program, &agent).await;
        let mut poller = Poller::new(program, agent.clone());
        poller.cursor = Some("00000000-0000-4000-8000-000000000000".into());
        poller.poll().await;
        assert_eq!(poller.cursor, None, "{program:?} kept its cursor after a 410");
        registry.order(Ask::post(format!("/workspaces/{}/a2a", agent.id)).json(message("user"))).await.well();
        assert_eq!(poller.poll().await, 1, "{program:?}");
        assert!(!poller.stopped);
    }
}

/// Polling at the program's usual rate is never rate-limited: the CLI would stop permanently after a 429.
#[tokio::test(flavor = "multi_thread")]
async fn polling_client_is_not_rate_limited_at_its_usual_rate() {
    let registry = Registry::start().await;
    let agent = registry.external("poller", json!({ "delivery_mode": "poll" })).await;
    let mut poller = Poller::new(Program::Cli, agent.clone());
    for _ in 0..60 {
        poller.poll().await;
        agent.heartbeat(json!({})).await.well();
    }
    assert!(!poller.stopped);
}

/// The SDK's `register` never sends its bearer token. Without a token, nothing is registered, whatever the body
/// contains.
#[tokio::test(flavor = "multi_thread")]
async fn register_without_a_token_is_refused() {
    let registry = Registry::start().await;
    let one = registry.external("one", json!({})).await;
    let body = json!({ "id": one.id, "url": "remote://no-inbound", "agent_card": {} });
    let answer = registry.ask(Ask::post("/registry/register").json(body)).await;
    answer.refuses(401, "missing workspace auth token");
    assert_eq!(one.status().await, "awaiting_agent");
}

/// Imitates a loop that a runtime runs in addition to its heartbeats. The loop reports each ended delegation once: to
/// the runtime's own workspace and to its user.
#[tokio::test(flavor = "multi_thread")]
async fn heartbeat_loop_reports_each_delegation_result_once() {
    let registry = Registry::start().await;
    let one = registry.external("one", json!({ "delivery_mode": "poll" })).await;
    let gone = json!({ "target_id": "00000000-0000-4000-8000-000000000000", "task": "t" });
    let path = |what: &str| format!("/workspaces/{}/{what}", one.id);
    let delegated = one.ask(Ask::post(path("delegate")).json(gone)).await;
    assert_eq!(delegated.status, 202, "a runtime accepts no other status: {delegated:?}");
    let id = delegated.json()["delegation_id"].clone();
    let mut reported = BTreeSet::new();
    until("the loop has a result", async || {
        one.heartbeat(json!({})).await.well();
        let rows = one.ask(Ask::get(path("delegations"))).await.well();
        let ended = |row: &&Value| row["status"] == "completed" || row["status"] == "failed";
        for row in rows.as_array().unwrap().iter().filter(ended) {
            assert_eq!(row["source_id"], json!(one.id), "a foreign delegation was listed");
            if reported.insert(row["delegation_id"].to_string()) {
                assert_eq!(row["method"], "delegate_result", "the result is listed before its delegation");
                one.ask(Ask::post(path("a2a")).json(message("it ended"))).await.well();
                one.ask(Ask::post(path("notify")).json(json!({ "message": "it ended" }))).await.well();
            }
        }
        (!reported.is_empty()).then_some(())
    })
    .await;
    assert_eq!(reported.len(), 1);
    // `check_task_status` reads the first row with that id, and needs all of its fields.
    let rows = one.ask(Ask::get(path("delegations"))).await.well();
    let first = rows.as_array().unwrap().iter().find(|row| row["delegation_id"] == id).unwrap().clone();
    assert!(first["status"] == "failed" && first["error"].is_string(), "{first}");
    // A runtime's completion notice has no message; it is refused without further effect.
    let notice = one.ask(Ask::post(path("notify")).json(json!({ "type": "delegation_complete" }))).await;
    notice.refuses(400, "message is required");
}

/// Existing clients depend on two facts: prompt recall uses the last ten memories of the list, and `commit_memory`
/// requires status 201.
#[tokio::test(flavor = "multi_thread")]
async fn memories_are_stored_and_found_by_search() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    let path = format!("/workspaces/{}/memories", one.id);
    for number in 0..12 {
        let body = json!({ "content": format!("fact {number}"), "scope": "LOCAL" });
        assert_eq!(one.ask(Ask::post(&path).json(body)).await.status, 201);
    }
    let all = one.ask(Ask::get(&path)).await.well();
    let all = all.as_array().expect("a bare array");
    assert_eq!(
        (all.len(), &all[0]["content"], &all[11]["content"]),
        (12, &json!("fact 11"), &json!("fact 0"))
    );
    let found = one.ask(Ask::get(format!("{path}?scope=LOCAL&q=FACT%207"))).await.well();
    assert_eq!(found.as_array().unwrap().len(), 1);
}
