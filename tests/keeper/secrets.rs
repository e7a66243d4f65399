//! No token appears in any output: everything that a full run writes is searched for every token.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose as base64s};

use crate::support::{
    daemon::{Site, until},
    podman::{demo_image, image, podman_output},
};

/// The most verbose log.
const TRACE: &str =
    "[log]\nlevel = \"trace\"\nformat = \"json\"\n[sweep]\nabsence_grace = \"1s\"\nunknown_grace = \"1s\"\n";

/// Continuously reads the command line of every process, and the environments that are readable.
struct Onlooker {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<BTreeSet<String>>>,
    thread: JoinHandle<()>,
}

impl Onlooker {
    fn start() -> Self {
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(BTreeSet::new())));
        let (stopped, noted) = (Arc::clone(&stop), Arc::clone(&seen));
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Acquire) {
                noted.lock().unwrap().extend(command_lines());
                thread::sleep(Duration::from_millis(20));
            }
        });
        Self { stop, seen, thread }
    }

    fn end(self) -> String {
        self.stop.store(true, Ordering::Release);
        self.thread.join().unwrap();
        let seen = self.seen.lock().unwrap();
        assert!(seen.iter().any(|line| line.contains("serve")), "the onlooker saw nothing: {seen:?}");
        seen.iter().cloned().collect::<Vec<_>>().join("\n")
    }
}

fn command_lines() -> Vec<String> {
    let processes = fs::read_dir("/proc").expect("processes can be seen");
    let lines = processes.filter_map(|process| fs::read(process.ok()?.path().join("cmdline")).ok());
    lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " ")).collect()
}

/// A run whose complete output is recorded.
struct Kept<'a> {
    site: &'a Site,
    output: Vec<(String, String)>,
    tokens: Vec<String>,
}

impl Kept<'_> {
    fn run(&mut self, arguments: &[&str]) -> String {
        let output = self.site.ostler(arguments.iter().copied());
        self.output.push((
            format!("ostler {}", arguments.join(" ")),
            format!("{}\n{}", output.stdout, output.stderr),
        ));
        output.stdout
    }

    /// Runs a command that may show a token, and records the token separately.
    fn issue(&mut self, arguments: &[&str], find: impl Fn(&str) -> String) {
        let output = self.site.ostler(arguments.iter().copied());
        let token = find(&output.stdout);
        assert_eq!(token.len(), 43, "no token in {output:?}");
        let rest = format!("{}\n{}", output.stdout.replacen(&token, "", 1), output.stderr);
        self.output.push((format!("ostler {}", arguments.join(" ")), rest));
        self.tokens.push(token);
    }

    fn collect(&mut self, name: &str) {
        self.tokens.push(self.site.token_in_volume(name));
    }
}

/// Bytes as text, one character each, because searching text is far faster than searching bytes.
fn latin(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

/// A token in its escaped and encoded forms.
fn forms(token: &str) -> Vec<String> {
    let raw = base64s::URL_SAFE_NO_PAD.decode(token).expect("a token is base64");
    let hex = raw.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    let bytes = token.bytes().map(|byte| byte.to_string()).collect::<Vec<_>>();
    let escaped = token.replace('-', "%2D").replace('_', "%5F");
    vec![
        token.to_owned(),
        token[8..].to_owned(),
        escaped.clone(),
        escaped.to_lowercase(),
        base64s::STANDARD_NO_PAD.encode(&raw),
        base64s::STANDARD_NO_PAD.encode(token),
        hex,
        // The `Debug` form of bytes, which is how bodies get into logs.
        bytes.join(", "),
        bytes.join(","),
        latin(&raw),
    ]
}

fn files_below(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else if let Ok(bytes) = fs::read(&path) {
            files.push((path.display().to_string(), bytes));
        }
    }
    files
}

/// Runs most operations: create, move, remove, lose, restore, refuse.
fn full_run(kept: &mut Kept<'_>) {
    let site = kept.site;
    site.create_all(&[("top", None), ("below", Some("top"))]);
    kept.collect("top");
    kept.collect("below");
    kept.issue(&["token", "issue", "top"], |output| output.trim().to_owned());
    kept.issue(&["token", "issue", "top", "--expires", "1h", "--json"], |output| {
        serde_json::from_str::<serde_json::Value>(output).unwrap()["auth_token"].as_str().unwrap().to_owned()
    });
    kept.issue(&["create", "phone", "--external"], |output| {
        let line = output.lines().find(|line| line.contains("auth_token")).expect("a token is shown");
        line.split_whitespace().nth(1).unwrap().to_owned()
    });
    for order in [&["restart", "top"][..], &["recreate", "below"]] {
        kept.run(order);
        kept.collect(order[1]);
    }
    kept.run(&["create", "broken", "--image", "localhost/ostler-has-no-such-image:1"]);
    kept.run(&["rm", "below"]);
    until("it lies in the trash", || {
        site.trash().iter().any(|e| e["reason"] == "removed" && e["state"] == "kept").then_some(())
    });
    kept.run(&["undelete", "below"]);
    kept.run(&["start", "below"]);
    kept.collect("below");
    site.forget_row("below");
    site.sweep_until("reap_unknown", |run| run["actions"].to_string().contains("applied"));
    kept.run(&["trash", "ls", "--json"]);
    kept.run(&["trash", "restore", "below"]);
    podman_output(["rm", "--force", "--time=0", site.show("top")["container_id"].as_str().unwrap()]);
    site.sweep_until("revoke_stale_tokens", |run| run["actions"].to_string().contains("applied"));
    kept.run(&["start", "top"]);
    kept.collect("top");
    // The output of a workspace is its own responsibility, and is shown by `logs` only.
    let prints = "cat /configs/.auth_token; sleep 3600";
    kept.run(&["create", "talker", "--image", image(), "--", "sh", "-c", prints]);
    kept.collect("talker");
    let printed = site.ostler(["logs", "talker"]).stdout;
    assert_eq!(kept.tokens.last().map(String::as_str), Some(printed.trim()), "the talker does not talk");
    a_telltale_crashes(kept);
    ask_everything(kept);
}

/// An agent that registers, sends heartbeats and receives messages. Its last output, which an event stores, contains
/// its token.
fn a_telltale_crashes(kept: &mut Kept<'_>) {
    let site = kept.site;
    // In one write, because Podman's tail of a log omits text written without its newline.
    let tells = "echo \"$(cat /configs/.auth_token)\"; exec /bin/demo-agent";
    let create =
        ["create", "telltale", "--runtime", "agent", "--image", demo_image(), "--", "/bin/sh", "-c", tells];
    kept.run(&create);
    kept.collect("telltale");
    let told = kept.tokens.last().expect("a token was collected").clone();
    assert!(site.ostler(["logs", "telltale"]).stdout.contains(&told), "the telltale keeps its token");
    let answer = kept.run(&["message", "telltale", "hello"]);
    assert!(answer.contains("heard: hello"), "the telltale is no agent: {answer}");
    kept.run(&["message", "telltale", "crash 7"]);
    let id = site.show("telltale")["id"].as_str().expect("it has an id").to_owned();
    let last_words = until("its end is an event", || {
        let events = site.events_of(&id);
        let end = events.iter().find(|event| event["event_type"] == "WORKSPACE_OFFLINE")?;
        end["payload"]["log_tail"].as_str().map(str::to_owned)
    });
    assert!(last_words.contains("[redacted]"), "its last words lack the token it said: {last_words}");
    site.until_status("telltale", "online");
    kept.collect("telltale");
}

fn ask_everything(kept: &mut Kept<'_>) {
    for question in [
        &["ls", "--json"][..],
        &["ls", "--removed"],
        &["show", "top", "--json"],
        &["show", "phone"],
        &["why", "top"],
        &["why", "below", "--json"],
        &["why", "phone"],
        &["why", "telltale"],
        &["show", "telltale", "--json"],
        &["token", "ls", "top", "--json"],
        &["token", "ls", "phone"],
        &["events", "-n", "500", "--json"],
        &["events", "-n", "500"],
        &["sweep", "list", "--json"],
        &["sweep", "show", "revoke_stale_tokens"],
        &["sweep", "run", "--json"],
        &["sweep", "run", "--dry-run"],
        &["doctor", "--json"],
        &["logs", "top"],
        &["config", "show"],
        &["adopt", "--dry-run", "--json"],
        &["token", "revoke", "top", "no-such-token"],
        &["start", "no-such-workspace"],
    ] {
        kept.run(question);
    }
}

#[test]
fn tokens_never_appear_in_logs_events_output_labels_or_files() {
    let mut site = Site::new(TRACE);
    site.serve();
    let onlooker = Onlooker::start();
    let mut kept = Kept { site: &site, output: Vec::new(), tokens: Vec::new() };
    full_run(&mut kept);
    let Kept { mut output, mut tokens, .. } = kept;
    let filter = format!("label=ostler.instance={}", site.instance());
    let containers = podman_output(["ps", "--all", "--quiet", "--no-trunc", "--filter", &filter]);
    assert!(containers.lines().count() >= 2, "there is too little to look at");
    for container in containers.lines() {
        output.push((format!("podman inspect {container}"), podman_output(["inspect", container])));
    }
    output.push(("the command lines of processes".into(), onlooker.end()));
    let wal = files_below(&site.data_dir());
    site.stop();
    site.lose_database();
    site.serve();
    let adopted = site.ostler(["adopt", "--all", "--json"]);
    assert!(adopted.stdout.contains("token stays valid"), "{adopted:?}");
    output.push(("adopt --all".into(), adopted.stdout + &adopted.stderr));
    output.push(("the log of the daemon".into(), site.log()));

    tokens.sort();
    tokens.dedup();
    assert!(tokens.len() >= 8, "a full run issues more tokens than {}", tokens.len());
    let written = output.into_iter().map(|(what, text)| (what, text.into_bytes()));
    for (what, text) in written.chain(wal).chain(files_below(&site.data_dir())) {
        let text = latin(&text);
        for (n, token) in tokens.iter().enumerate() {
            for (form, needle) in forms(token).iter().enumerate() {
                if let Some(at) = text.find(needle) {
                    let before: String = text[..at].chars().rev().take(300).collect();
                    let before: String = before.chars().rev().collect();
                    panic!("{what} holds token {n} in form {form}, after: {before}");
                }
            }
        }
    }
    let log = site.log();
    assert!(log.contains("\"TRACE\""), "the log was not talkative, so this shows little");
    assert!(!log.contains("\"Labels\\\":"), "the log holds whole answers of the engine, whatever those hold");
}
