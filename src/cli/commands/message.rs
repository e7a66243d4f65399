//! `ostler message`
//!
//! The response comes from an agent and may be anything: a message or task of A2A 0.2 to 1.0, as one object or as a
//! stream of events, an error, an HTML page, or a truncated body. The daemon marks responses of agents, so a failure
//! message can say whether the daemon or the agent failed. A response that is not A2A is a failure of the agent, with
//! exit code 1.

use clap::builder::NonEmptyStringValueParser;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE};
use serde_json::{Value, json};

use crate::cli::{
    a2a::{Content, Version},
    client::{Reply, workspace},
    failure::{Exit, Failure},
    frames::Sse,
    output,
    session::Session,
    text::{printable, printable_lines},
};

/// Send a message to a workspace's agent and print the response
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The message is delivered like a message between agents: it wakes a hibernated workspace, but does not start a
stopped one.

Examples:
  ostler message builder hello
  ostler message lead 'ask builder for its progress'
  ostler message builder --json hello        print the whole response")]
pub(in crate::cli) struct Args {
    /// Name, id or prefix of the id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: String,
    /// Text of the message; several arguments are joined with spaces
    #[arg(required = true, num_args = 1.., value_name = "TEXT")]
    text: Vec<String>,
}

/// The header by which the daemon marks an agent's response.
const ANSWERED_BY: &str = "ostler-answered-by";
/// How many characters of a response in an unknown format are shown.
const EXCERPT: usize = 300;

pub(in crate::cli) async fn run(session: &Session<'_>, args: Args) -> Result<u8, Failure> {
    let name = &args.name;
    let view: Value = session.client.get(&workspace(name)).await?;
    let version = Version::of_card(&view["agent_card"]);
    let text = args.text.join(" ");
    let reply = session
        .client
        .exchange(&format!("{}/a2a", workspace(name)), &version.request(&text), version.headers())
        .await?;
    if !reply.headers.contains_key(ANSWERED_BY) {
        // Either an error of the daemon, or the agent polls and will reply with a message of its own.
        let output_json: Value = reply.read().await?;
        if session.out.json() {
            session.out.value(&output_json)?;
        } else {
            session.out.line(&format!("stored for {} until its agent polls", printable(name)))?;
        }
        return Ok(0);
    }
    let mut printer = Printer { session, name, printed: Vec::new(), failure: None };
    printer.print(reply).await?;
    match printer.failure {
        Some(why) => Err(Failure::new(Exit::Failed, printable(&why))),
        None => Ok(0),
    }
}

/// Prints a response as it arrives. If the response is a failure, records the reason.
struct Printer<'a> {
    session: &'a Session<'a>,
    name: &'a str,
    /// Texts that were printed, so that a text that a task repeats is printed only once.
    printed: Vec<String>,
    failure: Option<String>,
}

impl Printer<'_> {
    async fn print(&mut self, mut reply: Reply) -> Result<(), Failure> {
        let header = |name| reply.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let content_type = header(CONTENT_TYPE).split(';').next().unwrap_or_default().trim().to_lowercase();
        let encoding = header(CONTENT_ENCODING).to_owned();
        let status = reply.status;
        let is_stream = content_type == "text/event-stream" && status.is_success();
        let mut events = Sse::default();
        let mut body = Vec::new();
        loop {
            match reply.next().await {
                Ok(Some(data)) if is_stream => {
                    for event in events.feed(&data) {
                        self.event(&event)?;
                    }
                }
                Ok(Some(data)) => body.extend_from_slice(&data),
                Ok(None) => break,
                Err(error) => {
                    self.fails(format!("the response of {} was cut off: {error}", self.name));
                    return Ok(());
                }
            }
        }
        if is_stream {
            return match events.finish() {
                Some(event) => self.event(&event),
                None => Ok(()),
            };
        }
        let value = serde_json::from_slice::<Value>(&body).ok().filter(Value::is_object);
        if let Some(value) = value {
            self.answer(&value)?;
            if !status.is_success() && self.failure.is_none() {
                self.fails(format!("{} answered with HTTP status {status}", self.name));
            } else if !status.is_success()
                && let Some(why) = &mut self.failure
            {
                *why = format!("{why} (HTTP status {})", status.as_u16());
            }
            return Ok(());
        }
        let text = String::from_utf8_lossy(&body);
        let excerpt: String = text.trim().chars().take(EXCERPT).collect();
        if self.session.out.json() {
            let output_json =
                json!({ "http_status": status.as_u16(), "content_type": content_type, "body": text });
            self.session.out.value(&output_json)?;
        }
        let what = match (encoding.as_str(), content_type.as_str()) {
            ("" | "identity", "") => "no content type".to_owned(),
            ("" | "identity", kind) => kind.to_owned(),
            (encoding, _) => format!("content encoding {encoding}, which was not requested"),
        };
        let beginning =
            if !encoding.is_empty() || excerpt.is_empty() { String::new() } else { format!(": {excerpt}") };
        self.fails(format!(
            "{} answered with HTTP status {} and {what}, which is not an A2A response{beginning}",
            self.name,
            status.as_u16()
        ));
        Ok(())
    }

    /// Handles one event of a stream, which contains a complete response object.
    fn event(&mut self, data: &str) -> Result<(), Failure> {
        if let Ok(value) = serde_json::from_str::<Value>(data) {
            return self.answer(&value);
        }
        let excerpt: String = data.chars().take(EXCERPT).collect();
        self.fails(format!("{} sent an event that is not an A2A response: {excerpt}", self.name));
        Ok(())
    }

    fn answer(&mut self, answer: &Value) -> Result<(), Failure> {
        if self.session.out.json() {
            self.session.out.value(answer)?;
        }
        let Content { texts, progress, failure } = Content::of(answer);
        for text in texts {
            if !self.printed.contains(&text) {
                if !self.session.out.json() {
                    self.session.out.line(&printable_lines(&text))?;
                }
                self.printed.push(text);
            }
        }
        for text in progress {
            output::note(&printable_lines(&text));
        }
        if let Some(failure) = failure {
            self.fails(format!("{} {failure}", self.name));
        }
        Ok(())
    }

    /// Records a failure. Only the first one is kept, because later ones follow from it.
    fn fails(&mut self, why: String) {
        self.failure.get_or_insert(why);
    }
}
