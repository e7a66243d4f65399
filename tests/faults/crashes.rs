//! The daemon is killed with `kill -9` between any two steps of an operation. After its next start, the registry and
//! the engine must agree again.
//!
//! A step is a request that changes something in the engine. Each scenario runs once per step and moment: the daemon is
//! killed before the engine receives the request, or after the engine has carried it out and before the daemon receives
//! the answer. The number of steps is not fixed: the rounds end with the first one in which the daemon was not killed.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use super::{
    HASTY, creation, make, run_manually,
    truth::{assert_truthful, containers, converge, text},
};
use crate::support::{
    daemon::{Site, until},
    engine_proxy::{EngineProxy, Fault, Moment, Rule},
    podman::podman_output,
};

/// A daemon, and the proxy that kills it at a given step.
struct Stage {
    proxy: EngineProxy,
    site: Site,
    killed: Arc<AtomicBool>,
}

/// An operation that is interrupted at each of its steps.
struct Scenario {
    /// Additional keys for the section `sweep`.
    sweep: &'static str,
    /// Called once before the first round. The daemon is up, and must be up afterwards.
    set: fn(&mut Stage),
    /// Called before every round; the daemon may be up or down afterwards.
    prepare: fn(&mut Stage, usize),
    /// The action during which the daemon is killed. Returns when the action is done or the daemon was killed.
    act: fn(&mut Stage, usize),
    /// Minimum number of steps; with fewer, the test fails because it covers too little.
    steps: usize,
}

impl Stage {
    fn new(config: &str) -> Self {
        let proxy = EngineProxy::start();
        let site = Site::on(proxy.socket_path(), config);
        Self { proxy, site, killed: Arc::default() }
    }

    /// Kills the daemon at its `step`th change from now on.
    fn arm(&mut self, step: usize, moment: Moment) {
        self.killed = Arc::default();
        let so_far = self.proxy.seen().iter().filter(|request| request.changes()).count();
        let target = Some(so_far + step);
        let fault = match moment {
            Moment::Arrived => Fault::DropBefore,
            Moment::Answered => Fault::DropAfter,
        };
        self.proxy.set_rules([Rule::when(move |request| request.change == target, fault)]);
        let (killed, lock) = (Arc::clone(&self.killed), self.site.data_dir().join("ostler.lock"));
        self.proxy.observe(move |request, now| {
            if request.change == target && now == moment {
                // Set first, because a client may notice the killed daemon before this returns.
                killed.store(true, Ordering::Release);
                kill(&lock);
            }
        });
    }

    fn disarm(&self) {
        self.proxy.set_rules([]);
        self.proxy.observe(|_, _| {});
    }

    fn was_killed(&self) -> bool {
        self.killed.load(Ordering::Acquire)
    }

    /// Waits for a condition, or until the daemon is killed.
    fn until(&self, what: &str, mut done: impl FnMut(&Site) -> bool) {
        until(what, || (self.was_killed() || done(&self.site)).then_some(()));
    }

    /// Makes the engine refuse every inspection of the sentinel during `work`, so that no operation begins.
    fn while_operations_cannot_begin(&self, work: impl FnOnce(&Site)) {
        let inspections = || self.proxy.count("GET", "/volumes/");
        self.proxy.set_rules([Rule::on("GET", "/volumes/", Fault::Status(500, "degraded".into()))]);
        let before = inspections();
        work(&self.site);
        until("an operation was abandoned", || (inspections() > before).then_some(()));
        self.proxy.set_rules([]);
    }
}

/// Kills the process named in a lock file and waits until it has exited.
fn kill(lock: &Path) {
    let pid = std::fs::read_to_string(lock).expect("a daemon holds its lock");
    let pid: i32 = pid.trim().parse().expect("the lock names a process");
    let process = rustix::process::Pid::from_raw(pid).expect("a pid");
    rustix::process::kill_process(process, rustix::process::Signal::KILL).expect("the daemon is killed");
    let stat = PathBuf::from(format!("/proc/{pid}/stat"));
    until("the daemon has exited", || match std::fs::read_to_string(&stat) {
        Ok(stat) => {
            stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')).then_some(())
        }
        Err(_) => Some(()),
    });
}

fn survives(scenario: &Scenario) {
    thread::scope(|threads| {
        for moment in [Moment::Arrived, Moment::Answered] {
            threads.spawn(move || every_step(scenario, moment));
        }
    });
}

fn every_step(scenario: &Scenario, moment: Moment) {
    let mut stage = Stage::new(&HASTY.replacen("[sweep]\n", &format!("[sweep]\n{}\n", scenario.sweep), 1));
    stage.site.serve();
    converge(&stage.site);
    (scenario.set)(&mut stage);
    for step in 0.. {
        // Reset before the preparation, whose waits would end early if the daemon counted as killed.
        stage.killed = Arc::default();
        (scenario.prepare)(&mut stage, step);
        stage.arm(step, moment);
        (scenario.act)(&mut stage, step);
        stage.disarm();
        if !stage.was_killed() {
            assert!(step >= scenario.steps, "only {step} steps were recorded: {:#?}", stage.proxy.seen());
            return;
        }
        let seen = stage.proxy.seen();
        let last = seen.iter().rfind(|request| request.changes()).expect("the daemon was killed at a change");
        eprintln!("killed at step {step}, {moment:?}: {last}");
        stage.site.kill();
        stage.site.serve();
        converge(&stage.site);
        assert_truthful(&stage.site);
    }
}

fn nothing(_: &mut Stage) {}

fn no_preparation(_: &mut Stage, _: usize) {}

fn trash_state(site: &Site, workspace: &str) -> Option<String> {
    let trash = site.ostler(["trash", "ls", "--json"]);
    let trash: serde_json::Value = serde_json::from_str(&trash.stdout).ok()?;
    let entry = trash.as_array()?.iter().find(|entry| entry["workspace_name"] == workspace)?;
    Some(text(&entry["state"]))
}

#[test]
fn daemon_killed_at_any_step_of_create_converges() {
    survives(&Scenario {
        sweep: "",
        set: nothing,
        prepare: no_preparation,
        act: |stage, step| drop(stage.site.ostler(creation(&format!("made-{step}"), &[]))),
        steps: 6,
    });
}

#[test]
fn daemon_killed_at_any_step_of_restart_converges() {
    survives(&Scenario {
        sweep: "",
        set: |stage| drop(make(&stage.site, "again")),
        prepare: |stage, _| drop(stage.site.ostler(["start", "again"]).well()),
        act: |stage, _| drop(stage.site.ostler(["restart", "again"])),
        steps: 3,
    });
}

#[test]
fn daemon_killed_at_any_step_of_recreate_converges() {
    survives(&Scenario {
        sweep: "",
        set: |stage| drop(make(&stage.site, "recreated")),
        prepare: |stage, _| drop(stage.site.ostler(["start", "recreated"]).well()),
        act: |stage, _| drop(stage.site.ostler(["recreate", "recreated"])),
        steps: 5,
    });
}

#[test]
fn daemon_killed_at_any_step_of_stop_converges() {
    survives(&Scenario {
        sweep: "",
        set: |stage| drop(make(&stage.site, "paused")),
        prepare: |stage, _| drop(stage.site.ostler(["start", "paused"]).well()),
        act: |stage, _| drop(stage.site.ostler(["stop", "paused"])),
        steps: 1,
    });
}

#[test]
fn daemon_killed_at_any_step_of_removal_converges() {
    survives(&Scenario {
        sweep: "",
        set: |stage| drop(make(&stage.site, "gone")),
        prepare: |stage, step| {
            if step > 0 {
                stage.site.ostler(["undelete", "gone"]).well();
                stage.site.ostler(["start", "gone"]).well();
            }
        },
        act: |stage, _| {
            stage.site.ostler(["rm", "gone"]);
            stage.until("the workspace is in the trash", |site| {
                trash_state(site, "gone").as_deref() == Some("kept")
            });
        },
        steps: 2,
    });
}

#[test]
fn daemon_killed_at_any_step_of_undelete_converges() {
    survives(&Scenario {
        sweep: "",
        set: |stage| drop(make(&stage.site, "back")),
        prepare: |stage, _| {
            stage.site.ostler(["rm", "back"]).well();
            stage.until("the workspace is in the trash", |site| {
                trash_state(site, "back").as_deref() == Some("kept")
            });
        },
        act: |stage, _| drop(stage.site.ostler(["undelete", "back"])),
        steps: 1,
    });
}

#[test]
fn daemon_killed_at_any_step_of_reap_removed_converges() {
    survives(&Scenario {
        sweep: "",
        set: |stage| drop(make(&stage.site, "left")),
        prepare: |stage, step| {
            if step > 0 {
                stage.site.ostler(["undelete", "left"]).well();
                stage.site.ostler(["start", "left"]).well();
            }
            stage.while_operations_cannot_begin(|site| drop(site.ostler(["rm", "left"]).well()));
        },
        act: |stage, _| {
            stage.site.ostler(["sweep", "run", "reap_removed"]);
            stage.until("the workspace is in the trash", |site| {
                trash_state(site, "left").as_deref() == Some("kept")
            });
        },
        steps: 2,
    });
}

#[test]
fn daemon_killed_at_any_step_of_reap_unknown_converges() {
    survives(&Scenario {
        sweep: "",
        set: nothing,
        prepare: |stage, step| {
            let instance: uuid::Uuid = stage.site.instance().parse().unwrap();
            let unknown_id = uuid::Uuid::from_u128(instance.as_u128() ^ (1 + step as u128));
            run_manually(&instance.to_string(), &unknown_id.to_string(), 1);
        },
        act: |stage, step| {
            let known =
                |site: &Site| site.ostler(["trash", "ls", "--json"]).stdout.matches("\"kept\"").count();
            stage.until("the unknown container is in the trash", |site| {
                site.ostler(["sweep", "run", "reap_unknown"]);
                known(site) > step
            });
        },
        steps: 2,
    });
}

#[test]
fn daemon_killed_at_any_step_of_settle_converges() {
    survives(&Scenario {
        sweep: "",
        set: |stage| {
            make(&stage.site, "resting");
            stage.site.ostler(["stop", "resting"]).well();
        },
        prepare: |stage, step| {
            // Containers that earlier rounds moved to the trash would be checked again in every round.
            stage.site.ostler(["trash", "empty", "--yes"]);
            // The workspace is paused, but its own container runs, and so does a second container of it.
            let row = stage.site.show("resting");
            podman_output(["start", row["container_id"].as_str().unwrap()]);
            run_manually(&stage.site.instance(), row["id"].as_str().unwrap(), 100 + step);
        },
        act: |stage, _| {
            stage.until("all containers are settled", |site| {
                site.ostler(["sweep", "run", "settle"]);
                let all = containers(&site.instance());
                all.iter().all(|container| !container.runs)
                    && all.iter().filter(|container| !container.name.contains("trash")).count() == 1
            });
        },
        steps: 3,
    });
}

#[test]
fn daemon_killed_while_finishing_interrupted_create_converges() {
    survives(&Scenario {
        sweep: "",
        set: nothing,
        prepare: |stage, step| {
            let writing = Rule::on("PUT", "/archive", Fault::DropBefore).times(1);
            let lock = stage.site.data_dir().join("ostler.lock");
            stage.proxy.set_rules([writing]);
            stage.proxy.observe(move |request, now| {
                if request.method == "PUT" && now == Moment::Arrived {
                    kill(&lock);
                }
            });
            stage.site.ostler(creation(&format!("twice-{step}"), &[]));
            stage.site.kill();
        },
        act: |stage, step| {
            // The daemon may be killed before it answers.
            drop(stage.site.try_serve());
            let name = format!("twice-{step}");
            stage.until("the workspace is online", |site| {
                site.ostler(["sweep", "run"]);
                site.ostler(["show", &name, "--json"]).stdout.contains("\"online\"")
            });
        },
        steps: 3,
    });
}

#[test]
fn daemon_killed_at_any_step_of_empty_trash_converges() {
    survives(&Scenario {
        sweep: "trash_retention = \"1s\"",
        set: nothing,
        prepare: |stage, step| drop(make(&stage.site, &format!("rubbish-{step}"))),
        act: |stage, step| {
            let name = format!("rubbish-{step}");
            let id = text(&stage.site.show(&name)["id"]);
            stage.site.ostler(["rm", &name]);
            stage.until("the workspace is deleted permanently", |site| {
                site.ostler(["sweep", "run", "empty_trash"]);
                trash_state(site, &name).is_none()
                    && containers(&site.instance()).iter().all(|container| container.workspace != id)
            });
        },
        steps: 5,
    });
}

#[test]
fn daemon_killed_at_its_first_engine_change_starts_again() {
    for moment in [Moment::Arrived, Moment::Answered] {
        let mut stage = Stage::new(HASTY);
        stage.arm(0, moment);
        drop(stage.site.try_serve());
        until("the daemon was killed", || stage.was_killed().then_some(()));
        stage.disarm();
        stage.site.kill();
        stage.site.serve();
        make(&stage.site, "first");
        converge(&stage.site);
        assert_truthful(&stage.site);
    }
}
