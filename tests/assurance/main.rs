//! Campaigns that try to break ostler, and their results.
//!
//! `cargo assurance` runs every campaign in its CI size, and writes `target/assurance/report.json` and `report.html`.
//! Campaign names as arguments select campaigns, `--long` selects the size for releases, and `--seed N` repeats one
//! scenario of the simulator. (It is short for `cargo test --profile assurance --features assurance --test assurance
//! --`, see `.cargo/config.toml`.)

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    clippy::unit_arg,
    clippy::match_same_arms,
    clippy::unnested_or_patterns,
    reason = "the whole crate is tests, and rows of tables may be equal; clippy exempts only marked functions"
)]

mod crash_points;
mod disk;
mod freeze;
mod hostile;
mod interleavings;
mod mutants;
mod page;
mod report;
mod simulate;
#[path = "../simulation/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with tests/main.rs, which uses the rest")]
mod simulation;
mod soak;
#[path = "../support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with tests/main.rs, which uses the rest")]
mod support;
mod upgrade;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    thread,
    time::Instant,
};

use clap::Parser;

use report::{Report, Section};

/// Tries to break ostler, and reports the results.
#[derive(Clone, Debug, Parser)]
pub(crate) struct Settings {
    /// Campaigns to run; all if none is named.
    #[arg(value_name = "CAMPAIGN")]
    campaigns: Vec<String>,
    /// Runs the size for releases instead of the size for CI.
    #[arg(long)]
    long: bool,
    /// Runs only this seed of the simulator, and prints its history.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Runs only these steps of that scenario, such as 3,7-9.
    #[arg(long, value_name = "STEPS", requires = "seed")]
    steps: Option<String>,
    /// Runs only this mutant.
    #[arg(long, value_name = "NAME")]
    mutation: Option<String>,
    /// Number of simulator seeds.
    #[arg(long, value_name = "N")]
    seeds: Option<u64>,
    /// The first of those seeds.
    #[arg(long, value_name = "N", default_value_t = 0)]
    first_seed: u64,
}

/// An attempt to break ostler.
struct Campaign {
    name: &'static str,
    title: &'static str,
    what: &'static str,
    run: fn(&Settings, &mut Section),
    /// Starts first and runs in parallel with the others, because it mostly waits.
    beside: bool,
}

/// In order of execution: the campaigns that find the most defects in the least time come first.
const CAMPAIGNS: &[Campaign] = &[
    Campaign {
        name: "simulate",
        title: "Simulation",
        what: "runs a whole installation from each seed, and checks every invariant after every step",
        run: simulate::run,
        beside: false,
    },
    Campaign {
        name: "interleavings",
        title: "Interleavings",
        what: "runs the stale-token sweep against every start, and every pair of operations, in every order of their \
               steps, or in thousands of orders: no live token is revoked, and each status follows the transition table",
        run: interleavings::run,
        beside: false,
    },
    Campaign {
        name: "mutants",
        title: "Mutation proof",
        what: "disables ostler's rules one at a time; the simulation has to detect each",
        run: mutants::run,
        beside: false,
    },
    Campaign {
        name: "upgrade",
        title: "Upgrades",
        what: "upgrades a filled database of every released schema: every value survives, even if the upgrade is \
               killed or runs out of space; a newer database is left unchanged",
        run: upgrade::run,
        beside: false,
    },
    Campaign {
        name: "disk",
        title: "Failing disks",
        what: "full disks, failing disks, logs cut at every byte and power loss: acknowledged writes are present, \
               refused writes are absent, and an unreadable database is never replaced",
        run: disk::run,
        beside: false,
    },
    Campaign {
        name: "hostile",
        title: "Hostile HTTP",
        what: "malformed requests, slow clients and a flood of connections while a thousand agents send heartbeats: \
               none goes offline",
        run: hostile::run,
        beside: false,
    },
    Campaign {
        name: "freeze",
        title: "A suspended daemon",
        what: "suspends the real daemon for longer than any agent may miss heartbeats, then resumes it: no workspace \
               changes its status",
        run: freeze::run,
        beside: true,
    },
    Campaign {
        name: "crash-points",
        title: "Crash points",
        what: "kills the real daemon right before and right after every durable step, on real Podman",
        run: crash_points::run,
        beside: false,
    },
    Campaign {
        name: "storm",
        title: "kill -9 during commands",
        what: "kills the real daemon repeatedly while operators give commands to six workspaces: nothing is lost, \
               no plan is held, and all workspaces converge without help",
        run: soak::storm::run,
        beside: false,
    },
    Campaign {
        name: "soak",
        title: "Real Podman soak",
        what: "50 workspaces on real Podman while containers, conmons, the service and the daemon are killed, \
               objects are deleted and added, and operators give commands",
        run: soak::run,
        beside: false,
    },
];

fn run(campaign: &Campaign, settings: &Settings) -> Section {
    let mut section = Section::new(campaign.name, campaign.title, campaign.what);
    println!("\n{}: {}", campaign.title, campaign.what);
    let began = Instant::now();
    // A panic in one campaign does not affect the others. Its message was printed where it happened.
    if catch_unwind(AssertUnwindSafe(|| (campaign.run)(settings, &mut section))).is_err() {
        section.broke("the campaign panicked");
    }
    section.took_seconds = began.elapsed().as_secs_f64();
    // Printed in one piece, because other campaigns may run in parallel.
    let counts = section.counts.iter().map(|count| format!("  {:>12}  {}\n", count.count, count.what));
    let broken = section.broken.iter().map(|broken| format!("  VIOLATION  {broken}\n"));
    let lines: String = counts.chain(broken).collect();
    let end = if section.broken.is_empty() { "passed" } else { "FAILED" };
    println!("{}:\n{lines}  {end} in {:.0} s", campaign.title, section.took_seconds);
    section
}

fn main() -> ExitCode {
    // A campaign may start this binary again as the process to attack.
    if hostile::serve_if_asked() {
        return ExitCode::SUCCESS;
    }
    let settings = Settings::parse();
    let wanted = |campaign: &&Campaign| {
        settings.campaigns.is_empty() || settings.campaigns.iter().any(|name| name == campaign.name)
    };
    let unknown =
        settings.campaigns.iter().find(|name| CAMPAIGNS.iter().all(|campaign| campaign.name != **name));
    if let Some(unknown) = unknown {
        let known: Vec<_> = CAMPAIGNS.iter().map(|campaign| campaign.name).collect();
        eprintln!("there is no campaign `{unknown}`; the campaigns are {}", known.join(", "));
        return ExitCode::from(2);
    }
    let (beside, in_turn): (Vec<_>, Vec<_>) =
        CAMPAIGNS.iter().filter(wanted).partition(|campaign| campaign.beside);
    let sections = thread::scope(|threads| {
        let beside: Vec<_> =
            beside.into_iter().map(|campaign| threads.spawn(|| run(campaign, &settings))).collect();
        let mut sections: Vec<_> = in_turn.into_iter().map(|campaign| run(campaign, &settings)).collect();
        sections.extend(
            beside.into_iter().map(|section| section.join().expect("panics of a campaign are caught")),
        );
        sections
    });
    let report = Report { long: settings.long, sections };
    let path = report.write().expect("the report can be written");
    let broken: usize = report.sections.iter().map(|section| section.broken.len()).sum();
    println!("\nreport: {}", path.display());
    // The last line gives the numbers of passed and failed campaigns.
    let failed = report.sections.iter().filter(|section| !section.broken.is_empty()).count();
    println!("{} passed, {failed} failed", report.sections.len() - failed);
    if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
