//! Concurrent commands, and clients that disconnect.

use std::{
    process::{Child, Stdio},
    thread,
};

use super::{
    HASTY, make,
    truth::{assert_truthful, containers, converge, text},
};
use crate::support::{
    daemon::{Site, until},
    engine_proxy::{EngineProxy, Fault, Gate, Rule},
};

const ROUNDS: usize = 20;
const WORKSPACES: usize = 4;

#[test]
fn concurrent_operations_on_workspaces_converge() {
    let mut site = Site::new(HASTY);
    site.serve();
    let names: Vec<_> = (0..WORKSPACES).map(|number| format!("torn-{number}")).collect();
    for name in &names {
        make(&site, name);
    }
    for round in 0..ROUNDS / WORKSPACES {
        thread::scope(|threads| {
            for (number, name) in names.iter().enumerate() {
                for verb in ["start", "stop", "restart", "rm"] {
                    // In some rounds, the workspace is not removed.
                    if verb != "rm" || (round + number) % 2 == 0 {
                        let site = &site;
                        threads.spawn(move || site.ostler([verb, name.as_str()]));
                    }
                }
            }
        });
        converge(&site);
        assert_truthful(&site);
        let removed = site.json(["ls", "--removed"]);
        for row in removed.as_array().unwrap() {
            site.ostler(["undelete", row["name"].as_str().unwrap()]).well();
        }
    }
}

fn spawned(site: &Site, arguments: &[&str]) -> Child {
    let mut command = site.command();
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("the binary starts")
}

fn kill_and_wait(mut child: Child) {
    child.kill().expect("a child is killed");
    child.wait().expect("a child ends");
}

#[test]
fn stop_completes_when_its_client_is_killed() {
    let proxy = EngineProxy::start();
    let mut site = Site::on(proxy.socket_path(), HASTY);
    site.serve();
    make(&site, "left");
    let before = proxy.count("POST", "/stop");
    let gate = Gate::default();
    proxy.set_rules([Rule::on("POST", "/stop", Fault::DelayAnswer(gate.clone())).times(1)]);
    let client = spawned(&site, &["stop", "left"]);
    until("the stop is under way", || (proxy.count("POST", "/stop") > before).then_some(()));
    kill_and_wait(client);
    gate.open();
    until("the workspace is stopped", || {
        let row = site.show("left");
        let runs = containers(&site.instance()).iter().any(|container| container.runs);
        (row["status"] == "paused" && row["operation"].is_null() && !runs).then_some(())
    });
    converge(&site);
    assert_truthful(&site);
}

#[test]
fn daemon_shutdown_does_not_wait_for_streaming_clients() {
    let mut site = Site::new(HASTY);
    site.serve();
    make(&site, "followed");
    let followers = [["events", "--follow"].as_slice(), &["logs", "--follow", "followed"]]
        .map(|verb| spawned(&site, verb));
    until("both clients are connected", || (connections(&site) >= followers.len()).then_some(()));
    site.stop();
    assert!(
        !site.log().contains("did not finish before the shutdown limit"),
        "the shutdown waited for a client"
    );
    followers.into_iter().for_each(kill_and_wait);
    site.serve();
    assert_eq!(text(&site.show("followed")["status"]), "online");
    converge(&site);
    assert_truthful(&site);
}

/// Number of clients connected to the daemon.
fn connections(site: &Site) -> usize {
    let socket = site.data_dir().join("ostler.sock").display().to_string();
    let known = std::fs::read_to_string("/proc/net/unix").expect("the kernel lists its sockets");
    // One of the lines is that of the daemon's listener.
    known.lines().filter(|line| line.ends_with(&socket)).count().saturating_sub(1)
}
