//! Every order of concurrent operations on the simulated machine: the searches of `tests/simulation/race.rs` and
//! `tests/simulation/pairs.rs` in full, on all cores. The test suite runs the first in full too, and one status of the
//! second.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Mutex, PoisonError},
};

use ostler::sweep::Sweeper;

use crate::{
    Settings,
    report::Section,
    simulate::on_all_cores,
    simulation::{pairs, race},
};

/// Changes the section on behalf of a thread.
type Record<'a> = &'a dyn Fn(&dyn Fn(&mut Section));

/// Runs the search with this number.
type Search = fn(usize, Record<'_>);

pub(crate) fn run(_: &Settings, section: &mut Section) {
    let shared = Mutex::new(section);
    let record =
        |note: &dyn Fn(&mut Section)| note(&mut shared.lock().unwrap_or_else(PoisonError::into_inner));
    // The pairs come first: the longest of them takes longer than any race.
    let pairs = (0..pairs::STATUSES.len()).map(|number| ("pairs", number, search_pairs as Search));
    let races = (0..race::COUNT).map(|number| ("race", number, search_race as Search));
    on_all_cores(pairs.chain(races), |(what, number, search)| caught(what, number, &record, search));
}

/// Runs a search. A panic is a violation: its message is not printed, so it is recorded with the search.
fn caught(what: &str, number: usize, record: Record<'_>, search: Search) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| search(number, record))) {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        record(&|section| section.broke(format!("{what} {number} panicked: {text}")));
    }
}

fn search_pairs(number: usize, record: Record<'_>) {
    let all = pairs::all_pairs_from(pairs::STATUSES[number]);
    record(&|section| {
        section.count("pairs of operations", all.count as u64);
        section.count("pairs with every order", all.complete as u64);
        section.count("orders of pairs", all.orders as u64 + all.random_orders);
        all.failed.iter().for_each(|failed| section.broke(failed));
    });
}

fn search_race(number: usize, record: Record<'_>) {
    let searched = race::every_order(number, |sweeper: Sweeper| sweeper);
    record(&|section| {
        section.count(format!("orders of {}", searched.scene), searched.orders as u64);
        searched.failed.iter().for_each(|failed| section.broke(failed));
    });
}
