//! Hostile requests: manipulated paths and headers, oversized or deeply nested bodies, floods, random noise.

use std::{
    collections::BTreeMap,
    fs,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde_json::json;

use crate::support::{
    registry::{AgentClient, Registry, until},
    rng::Rng,
    wire::{Ask, Wire, keys_of},
};

#[tokio::test(flavor = "multi_thread")]
async fn path_variants_do_not_bypass_authorisation() {
    let registry = Registry::start().await;
    let (one, other) = (registry.online("one").await, registry.online("other").await);
    let (own, not_own) = (&one.id, &other.id);
    for path in [
        format!("/workspaces/{not_own}/state"),
        format!("/workspaces/{own}/../{not_own}/state"),
        format!("/workspaces/{own}%2f..%2f{not_own}/state"),
        format!("/workspaces/{own}/%2e%2e/{not_own}/state"),
        format!("/workspaces/{own}%252f..%252f{not_own}/state"),
        format!("/workspaces/{own}%00{not_own}/state"),
        format!("/workspaces/{not_own}%00/state"),
        format!("/workspaces/{not_own}%20/state"),
        format!("/workspaces/%20{not_own}/state"),
        format!("/workspaces/{}/state", not_own.to_uppercase()),
        format!("/workspaces/{}/state", not_own.replace('-', "")),
        format!("/workspaces/%7B{not_own}%7D/state"),
        format!("/workspaces/{}/state", "x".repeat(8000)),
        format!("/workspaces/{not_own}/state/"),
        format!("/workspaces/{not_own}//state"),
        format!("//workspaces/{not_own}/state"),
        format!("/./workspaces/{not_own}/state"),
        format!("/WORKSPACES/{not_own}/state"),
        format!("/workspaces/{not_own};a=b/state"),
        format!("/health/../workspaces/{not_own}/state"),
        format!("/health/..%2fworkspaces/{not_own}/state"),
        format!("/workspaces/{not_own}/tokens"),
        format!("/workspaces/{own}/tokens"),
        "/workspaces".into(),
        "/workspaces/".into(),
        "/workspaces?".into(),
        "/workspaces/%ff%fe/state".into(),
        "/workspaces/%/state".into(),
        "/events/stream".into(),
        "*".into(),
    ] {
        for token in [Some(&one.token), None] {
            let ask = Ask::get(&path);
            let ask = token.map_or(ask.clone(), |token| ask.token(token));
            let mut wire = Wire::open(registry.address).await;
            wire.write(&ask.bytes()).await;
            let answer = wire.answer().await;
            assert!((400..500).contains(&answer.status), "{path}: {answer:?}");
            assert!(!answer.text().contains("\"online\""), "{path}: {answer:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_path_or_method_answers_a_json_error() {
    let registry = Registry::start().await;
    for (method, path, status) in [
        ("GET", "/nowhere", 404),
        ("POST", "/", 404),
        ("PUT", "/workspaces", 405),
        ("DELETE", "/registry/heartbeat", 405),
        ("GET", "/registry/heartbeat", 405),
        ("TRACE", "/health", 405),
        ("OPTIONS", "/workspaces", 405),
        ("BREW", "/registry/register", 405),
    ] {
        let answer = registry.ask(Ask::new(method, path)).await;
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        assert_eq!(keys_of(&answer.json()), ["error"], "{method} {path}");
        assert!(answer.json()["error"].is_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn path_that_is_not_utf_8_answers_a_json_error() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    for path in
        ["/workspaces/%ff", "/workspaces/%F0%9F/activity", "/registry/%ff/peers", "/registry/discover/%ff"]
    {
        let answer = one.ask(Ask::get(path)).await;
        assert!(matches!(answer.status, 400 | 404), "{path}: {answer:?}");
        assert!(answer.json()["error"].is_string(), "{path}: {answer:?}");
    }
    for path in ["/workspaces/%ff", "/events/%ff", "/sweeps/%F0%9F", "/workspaces/%ff/tokens", "/exec/%ff"] {
        let answer = registry.order(Ask::get(path)).await;
        assert!(matches!(answer.status, 400 | 404), "{path}: {answer:?}");
        assert_eq!(keys_of(&answer.json()), ["error"], "{path}: {answer:?}");
    }
}

/// The limit per address is 512 connections.
#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_are_evicted_to_let_agents_connect() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    let mut kept = Wire::open(registry.address).await;
    let heartbeat = one.heartbeat_request(json!({})).token(&one.token).bytes();
    kept.write(&heartbeat).await;
    kept.answer().await.well();
    let mut idle = Vec::new();
    for _ in 0..600 {
        idle.push(Wire::open(registry.address).await);
    }
    one.heartbeat(json!({})).await.is(200, r#"{"status":"ok"}"#);
    // The oldest idle connection was evicted, and the authenticated one was not.
    assert!(idle[0].try_answer().await.is_none());
    kept.write(&heartbeat).await;
    kept.answer().await.well();
}

/// systemd and shells set a soft limit of 1024 open files and a much higher hard limit.
#[test]
fn daemon_raises_its_descriptor_limit() {
    let home = tempfile::tempdir().unwrap();
    let path_of = |name: &str| home.path().join(name);
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    fs::write(path_of("config.toml"), format!("[network]\nlisten = [\"127.0.0.1\"]\nport = {free}\n"))
        .unwrap();
    let mut daemon = Command::new("sh")
        .args(["-c", "ulimit -Sn 256; exec \"$0\" serve", env!("CARGO_BIN_EXE_ostler")])
        .env("OSTLER_DATA_DIR", path_of("data"))
        .env("OSTLER_RUNTIME_DIR", path_of("run"))
        .env("OSTLER_CONFIG", path_of("config.toml"))
        .env("OSTLER_ENGINE_SOCKET", format!("unix://{}", path_of("absent.sock").display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let read_limits = || {
        let limits = fs::read_to_string(format!("/proc/{}/limits", daemon.id())).ok()?;
        let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
        let mut numbers = line.split_whitespace().map(|number| number.parse().unwrap_or(u64::MAX));
        Some((numbers.next()?, numbers.next()?))
    };
    let raised = std::iter::repeat_with(|| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        read_limits()
    })
    .take(1500)
    .flatten()
    .find(|(soft, _)| *soft > 256);
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    let (soft, hard) = raised.expect("the limit was raised");
    assert_eq!(soft, hard.min(10_240));
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_request_head_is_refused_and_the_connection_closed() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    let head = format!("GET /workspaces/{}/state HTTP/1.1\r\nHost: x\r\n", one.id);
    let auth = format!("Authorization: Bearer {}\r\n", one.token);
    let many = "X-Many: y\r\n".repeat(200);
    for (what, bytes) in [
        ("no HTTP at all", b"hello\r\n\r\n".to_vec()),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()),
        ("TLS", vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, b'\r', b'\n', b'\r', b'\n']),
        ("too many headers", format!("{head}{auth}{many}\r\n").into_bytes()),
        ("a head of 64 KiB", format!("{head}{auth}X: {}\r\n\r\n", "y".repeat(64 << 10)).into_bytes()),
        ("a name with a space", format!("{head}Authorization : Bearer {}\r\n\r\n", one.token).into_bytes()),
        ("a NUL in a header", format!("{head}{auth}X: a\0b\r\n\r\n").into_bytes()),
        ("two lengths", format!("{head}{auth}Content-Length: 1\r\nContent-Length: 2\r\n\r\nab").into_bytes()),
        ("a negative length", format!("{head}{auth}Content-Length: -1\r\n\r\n").into_bytes()),
        ("a length with a plus", format!("{head}{auth}Content-Length: +1\r\n\r\na").into_bytes()),
        ("an odd encoding", format!("{head}{auth}Transfer-Encoding: odd\r\n\r\n").into_bytes()),
    ] {
        let mut wire = Wire::open(registry.address).await;
        wire.write(&bytes).await;
        wire.finish().await;
        if let Some(answer) = wire.try_answer().await {
            assert!((400..500).contains(&answer.status), "{what}: {answer:?}");
        }
        assert!(wire.try_answer().await.is_none(), "{what}: the connection stays open");
    }
    registry.ask(Ask::get("/health")).await.well();
}

#[tokio::test(flavor = "multi_thread")]
async fn oversized_body_is_refused_before_it_is_read() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    for (path, most, token) in [
        (format!("/workspaces/{}/activity", one.id), 16 << 10, &one.token),
        (format!("/workspaces/{}/a2a", one.id), 10 << 20, &one.token),
        ("/workspaces".into(), 4 << 20, &registry.admin),
    ] {
        let announced = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: {}\r\n\r\n",
            most + 1
        );
        let mut wire = Wire::open(registry.address).await;
        wire.write(announced.as_bytes()).await;
        let answer = wire.answer().await;
        assert_eq!(
            (answer.status, keys_of(&answer.json())),
            (413, vec!["error".to_owned()]),
            "{path}: {answer:?}"
        );
    }
    assert_eq!(one.status().await, "online");
}

#[tokio::test(flavor = "multi_thread")]
async fn deeply_nested_json_does_not_overflow_the_stack() {
    let registry = Registry::start().await;
    let one = registry.online("one").await;
    let deep = |open: &str, close: &str| open.repeat(4000) + "1" + &close.repeat(4000);
    for nested in [deep("[", "]"), deep("{\"a\":", "}"), "[".repeat(8000), "{\"a\":".repeat(3000)] {
        for (path, body) in [
            ("/registry/heartbeat", nested.clone()),
            ("/registry/update-card", format!(r#"{{"workspace_id":"{}","agent_card":{nested}}}"#, one.id)),
            ("/registry/check-access", nested.clone()),
        ] {
            one.ask(Ask::post(path).body(body)).await.refuses(400, "invalid request body");
        }
        let card = format!(r#"{{"id":"{}","url":"","agent_card":{nested}}}"#, one.id);
        one.ask(Ask::post("/registry/register").body(card)).await.well();
        assert_eq!(one.show().await["agent_card"], json!(null), "an unreadable card was stored");
        let activity =
            Ask::post(format!("/workspaces/{}/activity", one.id)).body(format!(r#"{{"a":{nested}}}"#));
        let answer = one.ask(activity).await;
        assert!((400..500).contains(&answer.status), "{answer:?}");
        let create = registry.order(Ask::post("/workspaces").body(format!(r#"{{"env":{nested}}}"#))).await;
        assert_eq!(create.status, 400, "{create:?}");
        // Unknown values of a heartbeat are skipped without building them; invalid JSON is still refused.
        let ignored = format!(r#"{{"workspace_id":"{}","mood":{nested}}}"#, one.id);
        let answer = one.ask(Ask::post("/registry/heartbeat").body(ignored)).await;
        assert!(matches!(answer.status, 200 | 400), "{answer:?}");
        let kept = format!(r#"{{"workspace_id":"{}","runtime_metadata":{nested}}}"#, one.id);
        let answer = one.ask(Ask::post("/registry/heartbeat").body(kept)).await;
        assert!(matches!(answer.status, 200 | 400), "{answer:?}");
    }
    one.heartbeat(json!({})).await.well();
    assert_eq!(one.show().await["status"], "online");
    let id = one.id.clone();
    let registry = registry.restart().await;
    assert_eq!(registry.status(&id).await, "online", "the stored state cannot be read after a restart");
}

#[tokio::test(flavor = "multi_thread")]
async fn request_flood_is_rate_limited_but_heartbeats_are_accepted() {
    let registry = Registry::start().await;
    let (one, other) = (registry.online("one").await, registry.online("other").await);
    let state =
        |client: &AgentClient<'_>| Ask::get(format!("/workspaces/{}/state", client.id)).token(&client.token);
    let mut wire = Wire::open(registry.address).await;
    let flood = 1000;
    wire.write(&state(&one).bytes().repeat(flood)).await;
    let mut refused = Vec::new();
    for _ in 0..flood {
        let answer = wire.answer().await;
        if answer.status != 200 {
            refused.push(answer);
        }
    }
    let first = refused.first().expect("some of a thousand concurrent requests are refused");
    first.is(429, r#"{"error":"rate limit exceeded","retry_after":1}"#);
    assert_eq!(first.header("retry-after"), Some("1"));
    one.heartbeat(json!({})).await.is(200, r#"{"status":"ok"}"#);
    registry.ask(state(&other)).await.well();
    registry.show(&one.id).await;
    until("the rate limit allows a request", async || {
        (registry.ask(state(&one)).await.status == 200).then_some(())
    })
    .await;
}

const ROUTES: [(&str, &str); 29] = [
    ("POST", "/registry/heartbeat"),
    ("POST", "/registry/register"),
    ("POST", "/registry/update-card"),
    ("POST", "/registry/check-access"),
    ("GET", "/registry/discover/ID"),
    ("GET", "/registry/ID/peers?q=WORD"),
    ("POST", "/workspaces"),
    ("PATCH", "/workspaces/ID"),
    ("POST", "/workspaces/ID/a2a"),
    ("POST", "/workspaces/ID/activity"),
    ("GET", "/workspaces/ID/delegations"),
    ("POST", "/workspaces/ID/hibernate?force=WORD"),
    ("POST", "/workspaces/ID/restart?wait=WORD"),
    ("GET", "/workspaces/ID/state"),
    ("POST", "/workspaces/ID/tokens"),
    ("DELETE", "/workspaces/ID/tokens/ID"),
    ("GET", "/events?limit=WORD"),
    ("GET", "/events/ID"),
    ("GET", "/sweeps/WORD"),
    ("POST", "/trash/ID/restore"),
    ("POST", "/exec/ID/start"),
    ("POST", "/admin/tokens"),
    ("GET", "/WORD/ID/WORD"),
    ("GET", "/WORD/ID"),
    ("GET", "/health"),
    ("POST", "/registry/heartbeat"),
    ("POST", "/registry/heartbeat"),
    ("GET", "/workspaces/ID"),
    ("GET", "/workspaces/ID/activity"),
];

const TEXTS: [&str; 12] = [
    "true",
    "%00",
    "..",
    "%2e%2e%2f",
    "-1",
    "99999999999999999999",
    "",
    "%F0%9F",
    "a&b=c",
    "null",
    "settle",
    "%25",
];

fn noisy_body(noise: &mut Rng, id: &str) -> Vec<u8> {
    let values = [
        "null",
        "true",
        "-1",
        "1e308",
        "1e999",
        "0.5",
        "\"\"",
        "\"x\"",
        "[]",
        "{}",
        "[[[]]]",
        "\"\\u0000\"",
        "\"\\ud800\"",
        "{\"capabilities\":{\"status_mgmt\":true}}",
    ];
    let keys = [
        "workspace_id",
        "id",
        "url",
        "agent_card",
        "error_rate",
        "active_tasks",
        "uptime_seconds",
        "current_task",
        "runtime_state",
        "runtime_metadata",
        "caller_id",
        "target_id",
        "method",
        "params",
        "jsonrpc",
        "role",
        "parent_id",
    ];
    let mut body = format!(r#"{{"workspace_id":"{id}","#);
    for _ in 0..noise.below(6) {
        let (key, value) = (noise.pick(&keys), noise.pick(&values));
        body.extend(["\"", key, "\":", value, ","]);
    }
    body.pop();
    body += "}";
    let mut body = body.into_bytes();
    if noise.one_in(3) {
        for _ in 0..=noise.below(3) {
            let at = noise.below(body.len());
            body[at] = noise.byte();
        }
    }
    if noise.one_in(8) {
        let long = noise.below(300);
        body = noise.bytes(long);
    }
    body
}

fn noisy(noise: &mut Rng, clients: &[(String, String)]) -> Ask {
    let (id, token) = noise.pick(clients);
    let named = match noise.below(6) {
        0 => noise.pick(clients).0,
        1 => noise.pick(&TEXTS).to_owned(),
        2 => id.to_uppercase(),
        _ => id.clone(),
    };
    let word = noise.pick(&TEXTS);
    let (method, path) = noise.pick(&ROUTES);
    let path = path.replace("ID", &named).replace("WORD", word);
    let method =
        if noise.one_in(20) { noise.pick(&["GET", "POST", "PUT", "DELETE", "PATCH"]) } else { method };
    let mut ask = Ask::new(method, path);
    ask = match noise.below(8) {
        0 => ask,
        1 => ask.header(
            "Authorization",
            noise.pick(&["Bearer", "Bearer ", "Basic x", "bearer x", "Bearer ä"]).to_owned(),
        ),
        2 => ask.token(&token[1..]),
        _ => ask.token(&token),
    };
    if noise.one_in(2) {
        ask = ask.header("X-Workspace-ID", if noise.one_in(4) { word.to_owned() } else { id.clone() });
    }
    // A request that has to wait gets a short timeout.
    ask = ask.header("X-Timeout", "1");
    if method == "GET" { ask } else { ask.body(noisy_body(noise, &id)) }
}

/// Statuses that are correct answers to noise: a refusal, or a success. Messages and lookups to unreachable agents get
/// 502 or 503.
fn is_expected(status: u16) -> bool {
    matches!(status, 200 | 400..=499 | 502 | 503)
}

fn resident_kib() -> usize {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_random_requests_cause_no_panic_or_leak() {
    const SEED: u64 = 20_261_124;
    const EACH: usize = 2500;
    let panics = Arc::new(AtomicUsize::new(0));
    let (counted, before) = (Arc::clone(&panics), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |panic| {
        counted.fetch_add(1, Ordering::SeqCst);
        before(panic);
    }));
    let registry = Registry::start().await;
    let mut clients = Vec::new();
    for number in 0..20 {
        let client = registry.external(&format!("w{number}"), json!({})).await;
        client.heartbeat(json!({})).await.well();
        clients.push((client.id.clone(), client.token.clone()));
    }
    let mut baseline_kib = 0;
    let statuses = Mutex::new(BTreeMap::<u16, usize>::new());
    let flood = async |seed: u64, count: usize| {
        let mut noise = Rng::new(seed, 0);
        let mut wire = Wire::open(registry.address).await;
        for _ in 0..count {
            let ask = noisy(&mut noise, &clients);
            let mut bytes = ask.bytes();
            let broken = noise.one_in(5);
            if broken {
                let at = noise.below(bytes.len());
                bytes[at] = noise.byte();
            }
            wire.write(&bytes).await;
            if broken {
                // The changed byte may have increased the announced length. The client therefore closes its sending
                // side, so that the server does not wait for missing bytes.
                wire.finish().await;
            }
            let answer = wire.try_answer().await;
            let closed = answer.as_ref().is_none_or(|answer| answer.header("connection") == Some("close"));
            if let Some(answer) = answer {
                *statuses.lock().unwrap().entry(answer.status).or_default() += 1;
                assert!(
                    is_expected(answer.status),
                    "seed {seed}: {} -> {answer:?}",
                    String::from_utf8_lossy(&bytes)
                );
            } else {
                assert!(broken, "seed {seed}: no answer to {}", String::from_utf8_lossy(&bytes));
            }
            if broken || closed {
                wire = Wire::open(registry.address).await;
            }
        }
    };
    // The first round fills caches that remain in memory: connection buffers, prepared statements, pages.
    for (round, seed) in [SEED, SEED + 100].into_iter().enumerate() {
        let count = EACH / 2;
        tokio::join!(
            flood(seed, count),
            flood(seed + 1, count),
            flood(seed + 2, count),
            flood(seed + 3, count)
        );
        if round == 0 {
            baseline_kib = resident_kib();
        }
    }
    let statuses = statuses.into_inner().unwrap();
    for (status, least) in [(200, 500), (400, 500), (401, 500), (403, 100), (404, 500), (405, 100), (409, 10)]
    {
        let count = statuses.get(&status).copied().unwrap_or(0);
        assert!(
            count >= least,
            "too few answers with {status}: the noise does not cover its paths: {statuses:?}"
        );
    }
    let grown = resident_kib().saturating_sub(baseline_kib);
    assert!(grown < 64 << 10, "memory grew by {grown} KiB in five thousand requests");
    assert_eq!(panics.load(Ordering::SeqCst), 0, "a task panicked");
    registry.ask(Ask::get("/health")).await.well();
    assert!(registry.store.memory_is_true().await.unwrap(), "the cache differs from the tables");
    for (id, _) in &clients {
        let status = registry.status(id).await;
        assert!(
            ["online", "degraded"].contains(&status.as_str()),
            "random requests changed a status to {status}"
        );
    }
}
