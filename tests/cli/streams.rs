//! Commands that print a stream: `logs` and `events`.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::Stdio,
};

use ostler::api::event::EventView;
use serde_json::json;

use super::fixtures;
use crate::support::cli::{FakeDaemon, frame};

#[test]
fn logs_keep_stdout_and_stderr_separate() {
    let daemon = FakeDaemon::start();
    let body = [frame(1, "one\nt"), frame(2, "oops\n"), frame(1, "wo\n")].concat();
    daemon.answers_bytes("GET /workspaces/builder/logs?follow=false&tail=5", 200, &body);
    let ran = daemon.run(&["logs", "builder", "--tail", "5"]);
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (0, "one\ntwo\n", "oops\n"));
    let ran = daemon.run(&["logs", "builder", "-n", "5", "--json"]);
    assert_eq!(
        ran.stdout,
        "{\"stream\":\"stdout\",\"line\":\"one\"}\n{\"stream\":\"stderr\",\"line\":\"oops\"}\n{\"stream\":\"stdout\",\"line\":\"two\"}\n"
    );
}

fn sse(events: &[EventView]) -> Vec<u8> {
    let one = |event: &EventView| {
        format!(
            "id: {}\nevent: {}\ndata: {}\n\n",
            event.id,
            event.event_type,
            serde_json::to_string(event).unwrap()
        )
    };
    events.iter().map(one).collect::<String>().into_bytes()
}

/// The fake daemon ends the stream after every event, as a daemon does when it restarts.
#[test]
fn events_follow_resumes_after_stream_end_without_gap_or_repeat() {
    let daemon = FakeDaemon::start();
    let next = |id| fixtures::event(id, "WORKSPACE_PAUSED", json!({ "name": "tester" }));
    let elsewhere = EventView { workspace_id: Some(fixtures::BUILDER.into()), ..next(6) };
    daemon.answers("GET /workspaces/tester", 200, &fixtures::tester());
    daemon.answers(
        &format!("GET /events/{}?limit=2", fixtures::TESTER),
        200,
        &fixtures::sample_events()[..2],
    );
    daemon.answers_bytes("GET /events/stream?transient=false", 200, &sse(&[next(4), next(5)]));
    daemon.answers_bytes("GET /events/stream?transient=false", 200, &sse(&[next(5), elsewhere, next(7)]));

    let mut child = daemon
        .command(&["events", "-f", "tester", "-n", "2", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let ids: Vec<_> =
        lines.map(|line| serde_json::from_str::<EventView>(&line.unwrap()).unwrap().id).take(4).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(ids, [3, 4, 5, 7]);
    let stream_requests: Vec<_> =
        daemon.requests().into_iter().filter(|request| request.contains("stream")).collect();
    assert_eq!(
        stream_requests[..2],
        [
            "GET /events/stream?transient=false  [Last-Event-ID: 4]",
            "GET /events/stream?transient=false  [Last-Event-ID: 5]"
        ]
    );
}

/// In `ostler … | head`, ostler ends without a message when `head` closes the pipe.
#[test]
fn logs_exit_successfully_when_reader_closes_pipe() {
    let daemon = FakeDaemon::start();
    let body = frame(1, &"line\n".repeat(200_000));
    daemon.answers_bytes("GET /workspaces/builder/logs?follow=false", 200, &body);
    let mut child =
        daemon.command(&["logs", "builder"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 5];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    assert_eq!(output.status.code(), Some(0));
}
