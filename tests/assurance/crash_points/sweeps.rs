//! Actions of sweeps: repairs, status changes, restarts, timeouts, held plans and their approval, revocation of tokens,
//! and deletion of old data.

use serde_json::Value;

use super::{SCENARIO, Scenario, Stage};
use crate::support::{
    daemon::until,
    engine_proxy::{Fault, Rule},
    hasty::{creation, make, run_manually},
    podman::podman_output,
    truth::{containers, live_digests},
};

const UNKNOWN: u128 = 4;

fn set_started(stage: &mut Stage) {
    stage.site.serve();
    stage.kept = make(&stage.site, "w");
}

fn set_stopped(stage: &mut Stage) {
    set_started(stage);
    stage.site.ostler(["stop", "w"]).well();
}

fn started(stage: &mut Stage) {
    stage.site.ostler(["start", "w"]).well();
}

/// Kills the process of `w` as an unexpected exit.
fn kill_container(stage: &Stage) {
    let all = containers(&stage.site.instance());
    let running = all.iter().find(|container| container.runs).expect("its container runs");
    podman_output(["kill", &running.id]);
}

/// Id of the held plan of `reap_unknown`, if there is one.
fn held_plan(stage: &Stage) -> Option<String> {
    let shown = stage.order(&["sweep", "show", "reap_unknown", "--json"]);
    let shown: Value = serde_json::from_str(&shown.stdout).ok()?;
    Some(shown["held"]["id"].as_str()?.to_owned())
}

fn reap_unknown(stage: &Stage) {
    stage.order(&["sweep", "run", "reap_unknown"]);
    if let Some(plan) = held_plan(stage) {
        stage.order(&["sweep", "approve", "reap_unknown", &plan]);
    }
}

pub(super) const ALL: &[Scenario] = &[
    Scenario {
        name: "the running container of a paused workspace is stopped, and a second one is moved to the trash",
        steps: &["sweep: apply an action", "2nd sweep: apply an action", "emit event"],
        set: set_stopped,
        prepare: |stage| drop(stage.order(&["trash", "empty", "--yes"])),
        meanwhile: |stage| {
            let own = containers(&stage.site.instance());
            podman_output(["start", &own[0].id]);
            run_manually(&stage.site.instance(), &stage.kept, 100 + stage.round);
        },
        act: |stage| stage.repeat(&["sweep", "run", "settle"]),
        check: |stage, point| {
            let entries = stage.site.trash();
            assert_eq!(entries.len(), 1, "killed {point}, the second container is not in the trash");
            stage.site.ostler(["trash", "empty", "--yes"]).well();
        },
        // For each place a sweep moves a second container to the trash, which counts towards the breaker's limit.
        places_per_site: 3,
        ..SCENARIO
    },
    Scenario {
        name: "a container exits unexpectedly",
        steps: &["record container exit"],
        more: "[restart]\nfirst_backoff = \"1s\"\n",
        set: set_started,
        prepare: started,
        act: |stage| kill_container(stage),
        check: |stage, _| drop(stage.site.until_status("w", "online")),
        ..SCENARIO
    },
    Scenario {
        name: "a restart is due while the engine is unavailable",
        steps: &["postpone restart"],
        more: "[restart]\nfirst_backoff = \"3s\"\n",
        set: set_started,
        prepare: started,
        act: |stage| {
            kill_container(stage);
            until("it is offline", || {
                let row = stage.order(&["show", "w", "--json"]).stdout;
                row.contains("\"offline\"").then_some(())
            });
            stage.proxy.set_rules([Rule::on("GET", "/volumes/", Fault::Status(500, "injected".into()))]);
        },
        mend: |stage| stage.proxy.set_rules([]),
        then: started,
        ..SCENARIO
    },
    Scenario {
        name: "a start times out because no heartbeat arrives",
        steps: &["change status under guard"],
        more: "[runtimes.slow]\nreadiness = \"heartbeat\"\nprovisioning_limit = \"1s\"\nstop_grace = \"1s\"\n",
        act: |stage| {
            stage.order(&creation(&stage.named("slow"), &["--runtime", "slow", "--no-wait"]));
            stage.repeat(&["sweep", "run", "time_out_provisioning"]);
        },
        // The container keeps running after the timeout, because a heartbeat may still arrive. So it is stopped here.
        then: |stage| drop(stage.site.ostler(["stop", &stage.named("slow")]).well()),
        check: |stage, _| stage.purge(&stage.named("slow")),
        ..SCENARIO
    },
    Scenario {
        name: "a plan that exceeds the breaker's limit is held, approved and applied",
        steps: &["hold plan", "approve plan", "drop held plan"],
        places_per_site: 1,
        meanwhile: |stage| {
            let instance: uuid::Uuid = stage.site.instance().parse().expect("an id");
            for number in 1..=UNKNOWN {
                let unknown = uuid::Uuid::from_u128(instance.as_u128() ^ number).to_string();
                run_manually(&instance.to_string(), &unknown, 1);
            }
        },
        act: |stage| stage.repeat_until_dead(|stage| reap_unknown(stage)),
        then: |stage| {
            until("all unknown containers are in the trash", || {
                reap_unknown(stage);
                let trash = stage.site.trash();
                let kept = trash.iter().filter(|entry| entry["state"] == "kept").count();
                (kept as u128 == UNKNOWN).then_some(())
            });
        },
        check: |stage, point| assert_eq!(held_plan(stage), None, "killed {point}, a plan is still held"),
        ..SCENARIO
    },
    Scenario {
        name: "the network of a removed workspace is deleted",
        steps: &["clean up: delete a network"],
        more: "[network]\nisolate = true\n",
        places_per_site: 1,
        act: |stage| {
            let name = stage.named("short");
            stage.order(&creation(&name, &[]));
            stage.order(&["rm", "--purge", &name]);
            // Its container is deleted first.
            stage.repeat_until_dead(|stage| drop(stage.order(&["sweep", "run", "empty_trash"])));
        },
        check: |stage, point| {
            let label = format!("label=ostler.instance={}", stage.site.instance());
            until(&format!("killed {point}, the network is deleted"), || {
                stage.site.sweep("empty_trash");
                podman_output(["network", "ls", "--quiet", "--filter", &label])
                    .trim()
                    .is_empty()
                    .then_some(())
            });
        },
        ..SCENARIO
    },
    Scenario {
        name: "tokens without a container are revoked",
        steps: &["revoke stale tokens"],
        set: set_started,
        prepare: |stage| {
            started(stage);
            stage.site.ostler(["stop", "w"]).well();
            let own = containers(&stage.site.instance());
            podman_output(["rm", "--force", "--time=0", &own[0].id]);
        },
        act: |stage| stage.repeat(&["sweep", "run", "revoke_stale_tokens"]),
        check: |stage, point| {
            let left = live_digests(&stage.site, &stage.kept).len();
            assert_eq!(left, 0, "killed {point}, a token without a container is still valid");
        },
        ..SCENARIO
    },
    Scenario {
        name: "old events and removed rows are deleted",
        steps: &["delete old events", "delete old removed rows"],
        sweep: "event_retention = \"1s\"\ntrash_retention = \"1s\"\n",
        prepare: |stage| {
            let name = stage.named("phone");
            stage.site.ostler(["create", &name, "--external"]).well();
            stage.site.ostler(["rm", &name]).well();
        },
        act: |stage| stage.repeat(&["sweep", "run", "empty_trash"]),
        ..SCENARIO
    },
];
