//! Requests of operators and agents, over the daemon's ordinary routes.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use ostler::{
    domain::{heartbeat::WEDGED, ids::WorkspaceId, runtime::AGENT, token::Token, trash::TrashEntry},
    store::TokenSubject,
};
use serde_json::{Value, json};

use super::{
    super::{
        commands::{COMMANDS, Command, HURRIED},
        executor::Owner,
        installation::{IMAGE, REMOTE_IMAGE, now_or_panic, token_of},
        invariants::{PurgeOrder, Rule},
    },
    Scenario, all_passes,
    book::{Book, open},
};

impl Scenario {
    /// Sends a request; `judge` checks the response when it arrives.
    pub(super) fn ask(
        &self,
        what: String,
        (method, path, body): (&str, String, Option<Value>),
        token: Option<&str>,
        judge: impl FnOnce(&mut Book, u16, &Value) + Send + 'static,
    ) {
        let asking = match token {
            None => self.site.as_operator(method, &path, body),
            Some(token) => self.site.ask(method, &path, token, body),
        };
        let shared = Arc::clone(&self.book);
        let mut book = self.book();
        book.count("requests over the routes");
        book.note(what.clone());
        self.site.sim.spawn(Owner::Daemon, async move {
            let (status, answer) = asking.await;
            let mut book = open(&shared);
            let text = answer.to_string();
            book.note(format!("{what}: {status} {}", text.chars().take(150).collect::<String>()));
            let has_reason = answer["error"].is_string()
                || answer["status"] == "confirmation_required"
                || answer["deleted"] == true;
            if status >= 400 && !has_reason {
                book.broke(
                    Rule::AnswersAreTrue
                        .broken(format!("{what} was refused without a reason: {status} {answer}")),
                );
            }
            judge(&mut book, status, &answer);
        });
    }

    pub(super) fn create(&mut self) {
        if self.site.rows().len() >= self.parameters.workspaces {
            return;
        }
        self.workspaces_named += 1;
        let name = format!("w{}", self.workspaces_named);
        let parent = self.any_workspace();
        let body = self.site.sim.choose(|rng| {
            let image = match rng.below(100) {
                0..10 => REMOTE_IMAGE,
                10..15 => "no-such-image",
                _ => IMAGE,
            };
            let parent = parent.filter(|_| rng.permille(500));
            let mut body = json!({ "name": name });
            if let Some(parent) = parent {
                body["parent_id"] = json!(parent);
            }
            if rng.permille(150) {
                body["external"] = json!(true);
                return body;
            }
            body["image"] = json!(image);
            if rng.permille(600) {
                body["runtime"] = json!(AGENT);
            }
            if rng.permille(400) {
                body["hibernation_idle_minutes"] = json!(10);
            }
            body["restart_when_wedged"] = json!(rng.permille(500));
            body
        });
        self.ask(
            format!("create {body}"),
            ("POST", "/workspaces".into(), Some(body)),
            None,
            |book, _, answer| {
                let token = answer["connection"]["auth_token"].as_str().and_then(Token::parse);
                let id = answer["id"].as_str().and_then(|id| id.parse().ok());
                if let (Some(id), Some(token)) = (id, token) {
                    book.tokens.push(token.clone());
                    book.operator_tokens.push((id, token));
                }
            },
        );
    }

    pub(super) fn order(&mut self) {
        let Some(id) = self.any_workspace() else { return };
        // Sometimes an operator gives the next command before the last was answered.
        if self.site.sim.choose(|rng| rng.permille(60)) {
            for command in self.site.sim.choose(|rng| rng.pick(HURRIED)) {
                self.give_command(id, *command);
            }
            return;
        }
        let command = self.site.sim.choose(|rng| rng.pick(&COMMANDS));
        self.give_command(id, command);
    }

    pub(super) fn give_command(&mut self, id: WorkspaceId, command: Command) {
        let checks = self.witness.checks;
        let number = self.book().command_history.begin(id, command, checks);
        self.count("operator commands");
        if command == Command::StartWithNewVolume {
            self.book().new_volumes.insert(id);
        }
        let gone = (command == Command::Purge).then(|| {
            let mut order = PurgeOrder { tree: Some(id), targets: BTreeSet::new(), answered: None };
            order.note_tree(&self.site.rows());
            self.book().order_purge(order)
        });
        let what = format!("command {number}, {command:?} {}", self.site.row(id).name);
        self.ask(what, command.request(id), None, move |book, status, answer| {
            let granted = Command::is_granted_by(status, answer);
            let checks = book.checks;
            let given = book.command_history.answer(id, number, granted, checks);
            if let Some(index) = gone {
                book.purge_answered(index, status);
            }
            if let (Command::Undelete, true, Some(given)) = (command, granted, given) {
                let back =
                    answer["along"].as_array().into_iter().flatten().filter(|one| one["failed"] != true);
                for id in back.filter_map(|one| one["id"].as_str()?.parse().ok()) {
                    book.command_history.along(id, given);
                    book.count("undeleted along with another");
                }
            }
            if let (Some(status), Some(given)) = (answer["status"].as_str(), given)
                && status != "confirmation_required"
                && granted
            {
                book.reported_statuses.push((id, status.to_owned(), given.begun));
            }
        });
    }

    /// An operator queries something, or changes something other than a status.
    pub(super) fn ask_or_change(&mut self) {
        let Some(id) = self.any_workspace() else { return };
        let trash = now_or_panic(self.site.reader.trash()).expect("the store answers");
        let name = self.site.row(id).name;
        let (what, checks) = (self.site.sim.choose(|rng| rng.below(10)), self.witness.checks);
        let path = |more: &str| format!("/workspaces/{id}{more}");
        let nothing = |_: &mut Book, _: u16, _: &Value| {};
        match what {
            0 => {
                let judge = move |book: &mut Book, status: u16, answer: &Value| {
                    if let (200, Some(status)) = (status, answer["status"].as_str()) {
                        book.reported_statuses.push((id, status.to_owned(), checks));
                    }
                };
                self.ask(format!("query {name}"), ("GET", path("?removed=true"), None), None, judge);
            }
            1 => {
                let issued = move |book: &mut Book, _: u16, answer: &Value| {
                    if let Some(token) = answer["auth_token"].as_str().and_then(Token::parse) {
                        book.tokens.push(token.clone());
                        book.operator_tokens.push((id, token));
                    }
                };
                self.ask(
                    format!("issue a token of {name}"),
                    ("POST", path("/tokens"), Some(json!({}))),
                    None,
                    issued,
                );
            }
            2 => {
                let body = json!({ "hibernation_idle_minutes": 10, "role": "digger" });
                self.ask(format!("change {name}"), ("PATCH", path(""), Some(body)), None, nothing);
            }
            3 => {
                let body = json!({ "image": IMAGE, "tier": 3 });
                self.ask(
                    format!("change image and tier of {name}"),
                    ("PATCH", path(""), Some(body)),
                    None,
                    nothing,
                );
            }
            4 => self.ask("list".into(), ("GET", "/workspaces".into(), None), None, nothing),
            5 if !trash.is_empty() => {
                let entry = self.site.sim.choose(|rng| rng.pick(&trash));
                self.restore(&entry);
            }
            6 if !trash.is_empty() => {
                let entry = self.site.sim.choose(|rng| rng.pick(&trash));
                let order = PurgeOrder { tree: None, targets: [entry.workspace].into(), answered: None };
                let index = self.book().order_purge(order);
                let gone = move |book: &mut Book, status: u16, _: &Value| book.purge_answered(index, status);
                let body = json!({ "entries": [entry.id] });
                let to = "/trash/empty".to_owned();
                self.ask(format!("empty entry {}", entry.id), ("POST", to, Some(body)), None, gone);
            }
            7 => self.approve_what_is_held(),
            8 | 9 => self.cancel_an_operation(),
            _ => self.ask("list the trash".into(), ("GET", "/trash".into(), None), None, nothing),
        }
    }

    /// An operator cancels one of the open operations, or lists them if there is none.
    fn cancel_an_operation(&mut self) {
        let nothing = |_: &mut Book, _: u16, _: &Value| {};
        let open = now_or_panic(self.site.reader.open_operations()).expect("the store answers");
        if open.is_empty() {
            let request = ("GET", "/operations?limit=5".to_owned(), None);
            return self.ask("list the operations".into(), request, None, nothing);
        }
        let id = self.site.sim.choose(|rng| rng.pick(&open)).id;
        let request = ("POST", format!("/operations/{id}/cancel"), None);
        self.count("operations to cancel");
        self.ask(format!("cancel operation {id}"), request, None, move |book, status, _| {
            if status == 200 {
                book.count("operations cancelled");
            }
        });
    }

    /// An operator restores an entry of the trash.
    pub(super) fn restore(&mut self, entry: &TrashEntry) {
        let (of, entry) = (entry.workspace, entry.id);
        let checks = self.witness.checks;
        let number = self.book().command_history.begin(of, Command::Undelete, checks);
        let request = ("POST", format!("/trash/{entry}/restore"), None);
        self.ask(format!("restore entry {entry}"), request, None, move |book, status, answer| {
            let granted = status < 300 && answer["done"] == true;
            let checks = book.checks;
            book.command_history.answer(of, number, granted, checks);
        });
    }

    /// An operator approves one of the held plans.
    pub(super) fn approve_what_is_held(&mut self) {
        let held = |pass| now_or_panic(self.site.reader.held_plan(pass)).expect("the store answers");
        let held: Vec<_> = all_passes().into_iter().filter_map(|pass| Some((pass, held(pass)?.id))).collect();
        if held.is_empty() {
            return;
        }
        // From here on the breaker's limit does not apply.
        self.witness.approving = true;
        let (pass, plan) = self.site.sim.choose(|rng| rng.pick(&held));
        let request = ("POST", format!("/sweeps/{pass}/approve"), Some(json!({ "plan_id": plan })));
        self.ask(format!("approve the held plan of {pass}"), request, None, |_, _, _| {});
    }

    /// The token of a running process, or a token seen earlier.
    pub(super) fn some_token(&self) -> Option<Token> {
        let (runs, old) = self.site.sim.choose(|rng| (rng.permille(850), rng.next()));
        let running = self.any_workspace().filter(|_| runs).and_then(|id| self.site.container(id));
        let running = running.filter(|container| container.state.may_run());
        let mut book = self.book();
        match running.and_then(|container| token_of(container.held_token.as_deref())) {
            Some(token) => {
                if !book.tokens.iter().any(|known| known.digest() == token.digest()) {
                    book.tokens.push(token.clone());
                }
                Some(token)
            }
            None if book.tokens.is_empty() => None,
            None => {
                let index = usize::try_from(old % book.tokens.len() as u64).expect("it is below a length");
                Some(book.tokens[index].clone())
            }
        }
    }

    /// An agent sends a request, with its current token or with one seen earlier.
    pub(super) fn send_report(&mut self) {
        let Some(token) = self.some_token() else { return };
        let token_owner = match self.site.reader.token_subject(&token.digest(), self.site.sim.now()) {
            Some(TokenSubject::Workspace(token_owner)) => Some(token_owner.workspace),
            _ => None,
        };
        // An agent whose token is no longer valid keeps sending.
        let Some(id) = token_owner.or_else(|| self.any_workspace()) else { return };
        let (action, path, body) = self.site.sim.choose(|rng| {
            let well = json!({ "uptime_seconds": 60 });
            let (action, more) = rng.pick(&[
                ("sends a healthy heartbeat", well.clone()),
                ("sends a healthy heartbeat", well.clone()),
                ("sends a healthy heartbeat", well.clone()),
                ("reports an active task", json!({ "active_tasks": 1, "current_task": "digging" })),
                ("reports active tasks and is healthy", json!({ "active_tasks": 2, "uptime_seconds": 60 })),
                ("reports errors", json!({ "error_rate": 1.0, "sample_error": "no", "uptime_seconds": 60 })),
                (
                    "reports that it is wedged",
                    json!({ "runtime_state": WEDGED, "active_tasks": 1, "uptime_seconds": 60 }),
                ),
                ("registers", Value::Null),
                ("queries its peers", json!("peers")),
                ("queries its state", json!("state")),
                ("requests hibernation", json!("hibernate")),
            ]);
            match &more {
                Value::Null => (
                    action,
                    "/registry/register".to_owned(),
                    Some(json!({ "id": id, "url": "", "agent_card": {} })),
                ),
                Value::String(what) if what == "peers" => (action, format!("/registry/{id}/peers"), None),
                Value::String(what) => (action, format!("/workspaces/{id}/{what}"), None),
                Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                    let mut heartbeat = more;
                    heartbeat["workspace_id"] = json!(id);
                    (action, "/registry/heartbeat".to_owned(), Some(heartbeat))
                }
            }
        });
        let method = if body.is_some() || path.ends_with("hibernate") { "POST" } else { "GET" };
        let checks = self.witness.checks;
        let what = format!("{} {action}", self.site.row(id).name);
        self.count("requests of agents");
        let heartbeats = body.is_some();
        let (reader, clock, digest) = (self.site.reader.clone(), self.site.sim.clock(), token.digest());
        let judge = move |book: &mut Book, status: u16, answer: &Value| {
            // The store's last change is that of this request. So the token's current state is the one at that change.
            let token_subject = reader.token_subject(&digest, clock.now());
            let is_valid = matches!(
                token_subject,
                Some(TokenSubject::Workspace(token_owner)) if token_owner.workspace == id
            );
            if heartbeats && status == 200 {
                book.reports_accepted += 1;
                if !is_valid {
                    let how = format!("a report of {id} was accepted with an invalid token: {answer}");
                    book.broke(Rule::ReportsNeedAValidToken.broken(how));
                }
            }
            if let (200, Some(status), Some(_)) = (status, answer["status"].as_str(), answer.get("paused")) {
                book.reported_statuses.push((id, status.to_owned(), checks));
            }
        };
        self.ask(what, (method, path, body), Some(token.expose()), judge);
    }

    /// Sends a message with a unique marker that identifies it on arrival.
    pub(super) fn send_a_message(&mut self) {
        let Some(to) = self.any_workspace() else { return };
        let by_operator = self.site.sim.choose(|rng| rng.permille(400));
        let token = if by_operator { None } else { self.some_token() };
        let from = token
            .as_ref()
            .and_then(|token| self.site.reader.token_subject(&token.digest(), self.site.sim.now()));
        let from = match from {
            Some(TokenSubject::Workspace(token_owner)) => Some(token_owner.workspace),
            _ => None,
        };
        if token.is_some() && from.is_none() {
            return;
        }
        let marker = format!("message-{}-", self.book().sent.len());
        self.book().sent.insert(marker.clone(), (from, to));
        self.count("messages");
        let body = json!({ "method": "message/send", "params": { "message": { "text": marker } } });
        let what = format!("{marker} to {}", self.site.row(to).name);
        let path = format!("/workspaces/{to}/a2a");
        let index = self.book().command_history.send(to);
        let clock = self.site.sim.clock();
        let sent_at = clock.awake();
        let judge = move |book: &mut Book, _: u16, answer: &Value| {
            book.command_history.answer_message(to, index);
            // Nothing was delivered, so ostler retries until the hold of one minute ends.
            let held_for = clock.awake().since(sent_at);
            let refused = answer["error"].as_str().is_some_and(|error| error.contains("nothing listens"));
            if refused && held_for < Duration::from_mins(1) {
                let how =
                    format!("a message to {to} was abandoned after {held_for:?}, before its agent listened");
                book.broke(Rule::MessagesArrive.broken(how));
            }
        };
        self.ask(what, ("POST", path, Some(body)), token.as_ref().map(Token::expose), judge);
    }
}
