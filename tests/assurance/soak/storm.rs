//! `kill -9` of the daemon, again and again, while several operators give commands to the same few workspaces.
//!
//! Nothing else fails, and no operator runs a pass or approves a plan afterwards. The daemon has its default periods
//! and breaker, and has to finish what the killed daemons began.

use std::{
    fmt::Write as _,
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{
    EndOperators, Operator, Record, Sweeper, mark_all, pause, rows, seed_of, text,
    truth::Truth,
    until_up,
    users::{MemberKind, Tree, User},
};
use crate::{
    Settings,
    report::Section,
    support::{
        daemon::Site,
        podman::{Service, podman_output},
        ports::{CAMPAIGNS, Ports},
        rng::Rng,
    },
};

const KILLS: usize = 30;
const KILLS_LONG: usize = 120;
/// Average uptime of a daemon, in milliseconds. Starts and stops of workspaces take about as long, so most of them are
/// interrupted.
const MEAN_UPTIME: usize = 1_500;
/// About half of the daemons are killed only after 1 to this many answers. Otherwise no command would be answered on a
/// slow machine.
const ANSWERS: usize = 8;
/// Time limit for these answers. After it the daemon is killed without them.
const MAX_UPTIME: Duration = Duration::from_secs(20);
/// Average interval between two commands, in milliseconds.
const BETWEEN_COMMANDS: usize = 120;
/// Trees of a parent and its child, so that stops and starts affect another workspace.
const TREES: usize = 3;
/// Number of host ports.
const PORTS: u16 = 50;
/// Time limit for completing all started work: two periods of the slowest pass that this work needs.
const PATIENCE: Duration = Duration::from_mins(2);
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
const ANSWER_CHECK_INTERVAL: Duration = Duration::from_millis(50);

fn configuration(ports: &Ports) -> String {
    format!(
        "ports = \"{}\"\n[runtimes.plain]\nstop_grace = \"2s\"\n[runtimes.agent]\nstop_grace = \"2s\"\n",
        ports.range()
    )
}

pub(crate) fn run(settings: &Settings, section: &mut Section) {
    let seed = seed_of(settings);
    let record = Record::new();
    let ports = Ports::take(&CAMPAIGNS, PORTS);
    let service = Service::start();
    // `sweeper` removes the objects after the site was dropped, even after a panic.
    #[allow(clippy::needless_late_init, reason = "declared before the site, it is dropped after it")]
    let sweeper;
    let mut site = Site::on(&service.socket(), &configuration(&ports));
    site.serve();
    let instance = site.instance();
    sweeper = Sweeper(instance.clone());
    let operator = Operator::of(&site);
    let mut rng = Rng::new(seed, 0);
    let mut trees = create_trees(&operator);
    mark_all(&instance, &operator, &record, &mut rng);
    section.count("workspaces", rows(&operator, false).len() as u64);

    let kills = if settings.long { KILLS_LONG } else { KILLS };
    let (refused, began) = thread::scope(|threads| {
        for (number, tree) in trees.iter_mut().enumerate() {
            let (operator, record) = (operator.clone(), &record);
            let rng = Rng::new(seed, 10 + number as u64);
            let user = User {
                tree,
                operator,
                record,
                rng,
                keeps_record: true,
                between_commands: BETWEEN_COMMANDS,
                may_create: false,
                // The workspaces of the other operators have to converge without further commands.
                makes_sure: number == 0,
            };
            threads.spawn(move || user.run());
        }
        let _end = EndOperators(&record.over);
        let refused = kill_repeatedly(&mut site, &record, &mut rng, kills);
        record.over.store(true, Ordering::Release);
        (refused, Instant::now())
    });
    section.count("kill -9 of the daemon", kills as u64);
    for refused in refused {
        section.broke(format!("the daemon did not start again after it was killed: {refused}"));
    }
    let effects = super::chaos::Effects::default();
    let truth = Truth { site: &site, operator: &operator, record: &record, trees: &trees, effects: &effects };
    let unfinished = loop {
        match unfinished(&site, &operator) {
            None => break None,
            Some(unfinished) if began.elapsed() > PATIENCE => break Some(unfinished),
            Some(_) => thread::sleep(CHECK_INTERVAL),
        }
    };
    section.count("seconds from the last kill until nothing was left to do", began.elapsed().as_secs());
    section.expect(unfinished.is_none(), || {
        format!("after {} s, it has not converged on its own: {unfinished:?}", PATIENCE.as_secs())
    });
    truth.check_without_intervention(section);
    for (what, count) in record.counts.lock().expect("no holder of the lock panics").clone() {
        section.count(what, count);
    }
    site.stop();
    super::save_run_log("storm", &record, &site.log(), seed);
    drop((site, service));
    drop(sweeper);
    let left = Sweeper(instance).left();
    section.expect(left.is_empty(), || format!("objects are left: {left:?}"));
}

fn create_trees(operator: &Operator) -> Vec<Tree> {
    let mut trees: Vec<_> = (0..TREES)
        .map(|number| {
            let kind = if number == 0 { MemberKind::Agent } else { MemberKind::Plain };
            Tree::of_two(&format!("storm-{number}"), kind)
        })
        .collect();
    let mut made = Vec::new();
    for tree in &mut trees {
        for member in &tree.members {
            let parent = member.parent.map(|at| tree.members[at].name.clone());
            super::create_workspace(operator, &member.name, member.kind, parent.as_deref(), true);
            made.push(member.name.clone());
        }
        tree.record_all_up();
    }
    until_up(operator, &made);
    trees
}

/// Returns the error output of daemons that did not start again.
fn kill_repeatedly(site: &mut Site, record: &Record, rng: &mut Rng, kills: usize) -> Vec<String> {
    let mut refused = Vec::new();
    for kill in 1..=kills {
        let answers = if rng.one_in(2) { 1 + rng.below(ANSWERS) } else { 0 };
        let enough = record.answered.load(Ordering::Acquire) + answers;
        let begun = Instant::now();
        while record.answered.load(Ordering::Acquire) < enough && begun.elapsed() < MAX_UPTIME {
            thread::sleep(ANSWER_CHECK_INTERVAL);
        }
        pause(rng, MEAN_UPTIME);
        site.kill();
        record.print(format!("kill {kill} of the daemon"));
        if let Err(error) = site.try_serve() {
            refused.push(error);
            site.serve();
        }
    }
    refused
}

/// Describes everything that is in progress, held, or different from its row; `None` if everything is at rest.
fn unfinished(site: &Site, operator: &Operator) -> Option<String> {
    let mut unfinished = String::new();
    let rows = rows(operator, false);
    if rows.is_empty() {
        return Some("no rows are shown".into());
    }
    let filter = format!("label=ostler.instance={}", site.instance());
    let listed = podman_output(["ps", "--no-trunc", "--format", "{{.ID}}", "--filter", &filter]);
    let running: Vec<_> = listed.lines().collect();
    let mut expected = 0;
    for row in &rows {
        let status = text(&row["status"]);
        let in_transition = ["provisioning", "hibernating", "offline"].contains(&status.as_str());
        if in_transition || !row["operation"].is_null() {
            let _infallible = write!(unfinished, "{} is {status}: {}; ", row["name"], row["operation"]);
        }
        let up = ["online", "degraded"].contains(&status.as_str());
        expected += usize::from(up);
        if up != running.contains(&text(&row["container_id"]).as_str()) {
            let _infallible = write!(unfinished, "{} is {status}, but its container is not; ", row["name"]);
        }
    }
    if running.len() != expected {
        let _infallible = write!(unfinished, "{} containers run, for {expected} rows; ", running.len());
    }
    let unsettled = |entry: &&Value| entry["state"] != "kept";
    for entry in site.trash().iter().filter(unsettled) {
        let _infallible = write!(unfinished, "a trash entry is {}; ", entry["state"]);
    }
    let passes = operator.ostler(60, ["sweep", "ls", "--json"]);
    let passes: Vec<Value> = serde_json::from_str(&passes.stdout).unwrap_or_default();
    if passes.is_empty() {
        unfinished.push_str("no passes are shown; ");
    }
    for pass in passes.iter().filter(|pass| !pass["held"].is_null()) {
        let _infallible = write!(unfinished, "{} holds a plan: {}; ", pass["name"], pass["held"]);
    }
    (!unfinished.is_empty()).then_some(unfinished)
}
