//! Tests with agents that use the wire protocol. They run the real binary, the real Podman and the demo agent, with the
//! default configuration except where a test changes it.

mod answers;
mod deaths;
mod doctor;
mod hibernation;
mod lifecycle;
mod listening;
mod packets;

use std::{fs, path::PathBuf, time::Instant};

use serde_json::{Value, json};

use crate::support::{
    daemon::{Site, until},
    http::Answer,
    podman::demo_image,
};

/// Arguments of `create` for the demo agent.
fn creation<'a>(name: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec!["create", name, "--runtime", "agent", "--image", demo_image()];
    arguments.extend(more);
    arguments
}

/// Creates a demo agent and waits until it is online.
#[track_caller]
fn make(site: &Site, name: &str, more: &[&str]) -> Agent {
    site.ostler(creation(name, more)).well();
    Agent::of(site, name)
}

/// A workspace that is addressed by its id, as its peers address it.
struct Agent {
    name: String,
    id: String,
}

impl Agent {
    #[track_caller]
    fn of(site: &Site, name: &str) -> Self {
        let id = site.show(name)["id"].as_str().expect("a workspace has an id").to_owned();
        Self { name: name.to_owned(), id }
    }

    /// Sends the agent a message as the admin.
    #[track_caller]
    fn send_as_admin(&self, site: &Site, text: &str) -> Answer {
        site.admin("POST", &format!("/workspaces/{}/a2a", self.id), message(text))
    }

    /// Sends the agent a message that must be answered; returns the text of the answer.
    #[track_caller]
    fn ask_text(&self, site: &Site, text: &str) -> String {
        answer_text(&self.send_as_admin(site, text).expect(200))
    }

    /// Sends the agent a message from another workspace, with the token in the sender's volume.
    #[track_caller]
    fn send_from(&self, site: &Site, sender: &Self, text: &str) -> Answer {
        let token = site.token_in_volume(&sender.name);
        let path = format!("/workspaces/{}/a2a", self.id);
        site.agent("POST", &path, &sender.id, Some(&token), message(text))
    }

    #[track_caller]
    fn status(&self, site: &Site) -> String {
        site.show(&self.name)["status"].as_str().expect("a status is text").to_owned()
    }

    /// Types of the workspace's events, oldest first.
    #[track_caller]
    fn event_types(&self, site: &Site) -> Vec<String> {
        let events = site.events_of(&self.id);
        events.iter().rev().map(|event| event["event_type"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Waits for an event of this kind after the event `after`, and returns it.
    #[track_caller]
    fn until_event(&self, site: &Site, kind: &str, after: i64) -> Value {
        until(&format!("{} had {kind}: {:?}", self.name, self.event_types(site)), || {
            let events = site.events_of(&self.id);
            events.into_iter().find(|event| event["event_type"] == kind && event["id"].as_i64() > Some(after))
        })
    }

    /// Id of the workspace's last event; 0 if it has none.
    #[track_caller]
    fn last_event(&self, site: &Site) -> i64 {
        site.events_of(&self.id).first().and_then(|event| event["id"].as_i64()).unwrap_or_default()
    }
}

fn message(text: &str) -> Value {
    json!({ "method": "message/send", "params": { "message": {
        "kind": "message", "role": "user", "parts": [{ "kind": "text", "text": text }],
    } } })
}

/// Text of an agent's answer.
#[track_caller]
fn answer_text(answer: &Answer) -> String {
    let body = answer.json();
    body["result"]["parts"][0]["text"].as_str().unwrap_or_else(|| panic!("no text: {answer:?}")).to_owned()
}

#[track_caller]
fn event_types_of(site: &Site, name: &str) -> Vec<String> {
    Agent::of(site, name).event_types(site)
}

#[allow(clippy::disallowed_methods, reason = "latencies are measured in real time")]
fn now() -> Instant {
    Instant::now()
}

/// Records measured latencies. Nothing is asserted, because machines differ.
fn report(what: &str, mut milliseconds: Vec<u128>) {
    milliseconds.sort_unstable();
    let (median, worst) = (milliseconds[milliseconds.len() / 2], milliseconds[milliseconds.len() - 1]);
    let line = format!("{what}: median {median} ms, worst {worst} ms, of {}\n", milliseconds.len());
    eprint!("{line}");
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let file = directory.join(format!("agents-report-{}.txt", what.replace(' ', "-")));
    fs::write(file, line).expect("the report is written");
}
