//! No token appears in any output: all output and all files of a full run are searched for every token.

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

/// Configuration of the most verbose log, with short grace periods.
const TRACE: &str =
    "[log]\nlevel = \"trace\"\nformat = \"json\"\n[sweep]\nabsence_grace = \"1s\"\nunknown_grace = \"1s\"\n";

/// Records the command lines of all processes of this machine, every 20 ms until `end` is called.
struct ProcessWatcher {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<BTreeSet<String>>>,
    thread: JoinHandle<()>,
}

impl ProcessWatcher {
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
        assert!(seen.iter().any(|line| line.contains("serve")), "no daemon process was recorded: {seen:?}");
        seen.iter().cloned().collect::<Vec<_>>().join("\n")
    }
}

fn command_lines() -> Vec<String> {
    let processes = fs::read_dir("/proc").expect("/proc can be read");
    let lines = processes.filter_map(|process| fs::read(process.ok()?.path().join("cmdline")).ok());
    lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " ")).collect()
}

/// Runs commands of a site and records their complete output and all tokens.
struct Recorder<'a> {
    site: &'a Site,
    output: Vec<(String, String)>,
    tokens: Vec<String>,
}

impl Recorder<'_> {
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

/// Converts each byte to one character, because searching text is far faster than searching bytes.
fn latin(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

/// All forms in which a token could appear: as it is, escaped and encoded.
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
        // The `Debug` form of bytes: a log message that contains a body would print it so.
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

/// Runs most operations: workspaces are created, moved, removed, restored, lost from the registry, and some requests
/// are refused.
fn full_run(recorder: &mut Recorder<'_>) {
    let site = recorder.site;
    site.create_all(&[("top", None), ("below", Some("top"))]);
    recorder.collect("top");
    recorder.collect("below");
    recorder.issue(&["token", "issue", "top"], |output| output.trim().to_owned());
    recorder.issue(&["token", "issue", "top", "--expires", "1h", "--json"], |output| {
        serde_json::from_str::<serde_json::Value>(output).unwrap()["auth_token"].as_str().unwrap().to_owned()
    });
    recorder.issue(&["create", "phone", "--external"], |output| {
        let line = output.lines().find(|line| line.contains("auth_token")).expect("a token is shown");
        line.split_whitespace().nth(1).unwrap().to_owned()
    });
    for order in [&["restart", "top"][..], &["recreate", "below"]] {
        recorder.run(order);
        recorder.collect(order[1]);
    }
    recorder.run(&["create", "broken", "--image", "localhost/ostler-has-no-such-image:1"]);
    recorder.run(&["rm", "below"]);
    until("the workspace is in the trash", || {
        site.trash().iter().any(|e| e["reason"] == "removed" && e["state"] == "kept").then_some(())
    });
    recorder.run(&["undelete", "below"]);
    recorder.run(&["start", "below"]);
    recorder.collect("below");
    site.forget_row("below");
    site.sweep_until("reap_unknown", |run| run["actions"].to_string().contains("applied"));
    recorder.run(&["trash", "ls", "--json"]);
    recorder.run(&["trash", "restore", "below"]);
    podman_output(["rm", "--force", "--time=0", site.show("top")["container_id"].as_str().unwrap()]);
    site.sweep_until("revoke_stale_tokens", |run| run["actions"].to_string().contains("applied"));
    recorder.run(&["start", "top"]);
    recorder.collect("top");
    // ostler does not filter the output of a workspace; only `logs` shows it.
    let print_token = "cat /configs/.auth_token; sleep 3600";
    recorder.run(&["create", "printer", "--image", image(), "--", "sh", "-c", print_token]);
    recorder.collect("printer");
    let printed = site.ostler(["logs", "printer"]).stdout;
    assert_eq!(
        recorder.tokens.last().map(String::as_str),
        Some(printed.trim()),
        "the log is not exactly the token"
    );
    crash_leaking_agent(recorder);
    run_queries(recorder);
}

/// An agent that registers, sends heartbeats and receives messages. Its last output, which an event stores, contains
/// its token.
fn crash_leaking_agent(recorder: &mut Recorder<'_>) {
    let site = recorder.site;
    // The shell writes the token and its newline in one write, because Podman's tail of a log omits text that was
    // written without its newline.
    let prints_token = "echo \"$(cat /configs/.auth_token)\"; exec /bin/demo-agent";
    let create = [
        "create",
        "leaker",
        "--runtime",
        "agent",
        "--image",
        demo_image(),
        "--",
        "/bin/sh",
        "-c",
        prints_token,
    ];
    recorder.run(&create);
    recorder.collect("leaker");
    let leaked = recorder.tokens.last().expect("a token was collected").clone();
    assert!(site.ostler(["logs", "leaker"]).stdout.contains(&leaked), "the log does not contain the token");
    let answer = recorder.run(&["message", "leaker", "hello"]);
    assert!(answer.contains("heard: hello"), "the agent did not answer: {answer}");
    recorder.run(&["message", "leaker", "crash 7"]);
    let id = site.show("leaker")["id"].as_str().expect("the workspace has an id").to_owned();
    let logged_tail = until("the exit of the agent is an event", || {
        let events = site.events_of(&id);
        let end = events.iter().find(|event| event["event_type"] == "WORKSPACE_OFFLINE")?;
        end["payload"]["log_tail"].as_str().map(str::to_owned)
    });
    assert!(logged_tail.contains("[redacted]"), "the token in the log tail was not redacted: {logged_tail}");
    site.until_status("leaker", "online");
    recorder.collect("leaker");
}

fn run_queries(recorder: &mut Recorder<'_>) {
    for query in [
        &["ls", "--json"][..],
        &["ls", "--removed"],
        &["show", "top", "--json"],
        &["show", "phone"],
        &["why", "top"],
        &["why", "below", "--json"],
        &["why", "phone"],
        &["why", "leaker"],
        &["show", "leaker", "--json"],
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
        recorder.run(query);
    }
}

#[test]
fn tokens_never_appear_in_logs_events_output_labels_or_files() {
    let mut site = Site::new(TRACE);
    site.serve();
    let watcher = ProcessWatcher::start();
    let mut recorder = Recorder { site: &site, output: Vec::new(), tokens: Vec::new() };
    full_run(&mut recorder);
    let Recorder { mut output, mut tokens, .. } = recorder;
    let filter = format!("label=ostler.instance={}", site.instance());
    let containers = podman_output(["ps", "--all", "--quiet", "--no-trunc", "--filter", &filter]);
    assert!(containers.lines().count() >= 2, "too few containers to inspect");
    for container in containers.lines() {
        output.push((format!("podman inspect {container}"), podman_output(["inspect", container])));
    }
    output.push(("the command lines of processes".into(), watcher.end()));
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
    assert!(tokens.len() >= 8, "only {} tokens were issued", tokens.len());
    let written = output.into_iter().map(|(what, text)| (what, text.into_bytes()));
    for (what, text) in written.chain(wal).chain(files_below(&site.data_dir())) {
        let text = latin(&text);
        for (n, token) in tokens.iter().enumerate() {
            for (form, needle) in forms(token).iter().enumerate() {
                if let Some(at) = text.find(needle) {
                    let before: String = text[..at].chars().rev().take(300).collect();
                    let before: String = before.chars().rev().collect();
                    panic!("{what} contains token {n} in form {form}, after: {before}");
                }
            }
        }
    }
    let log = site.log();
    assert!(log.contains("\"TRACE\""), "the log has no TRACE lines, so this test proves little");
    assert!(
        !log.contains("\"Labels\\\":"),
        "the log contains complete engine responses, which may contain secrets"
    );
}
