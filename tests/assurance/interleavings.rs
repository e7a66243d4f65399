//! Every order of concurrent operations on the simulated machine: the searches of `tests/simulation/race.rs` and
//! `tests/simulation/pairs.rs` in full, on all cores. The test suite runs one scene of the first and one status of the
//! second.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use crate::{
    Settings,
    report::Section,
    simulate::{cores, quietly},
    simulation::{pairs, race},
};

/// Changes the section on behalf of a thread.
type Record<'a> = &'a dyn Fn(&dyn Fn(&mut Section));

pub(crate) fn run(_: &Settings, section: &mut Section) {
    let next = AtomicUsize::new(0);
    let shared = Mutex::new(section);
    let record =
        |note: &dyn Fn(&mut Section)| note(&mut shared.lock().unwrap_or_else(PoisonError::into_inner));
    quietly(|| {
        thread::scope(|scope| {
            for _ in 0..cores() {
                scope.spawn(|| {
                    // The pairs come first: the longest of them takes longer than any race.
                    while let number = next.fetch_add(1, Ordering::Relaxed)
                        && number < pairs::STATUSES.len() + race::COUNT
                    {
                        match number.checked_sub(pairs::STATUSES.len()) {
                            None => caught("pairs", number, &record, search_pairs),
                            Some(scene) => caught("race", scene, &record, search_race),
                        }
                    }
                });
            }
        });
    });
}

/// Runs a search. A panic is a violation: its message is not printed, so it is recorded with the search.
fn caught(what: &str, number: usize, record: Record<'_>, search: fn(usize, Record<'_>)) {
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
    let searched = race::every_order(number);
    record(&|section| {
        section.count("orders of a start and the sweep", searched.orders as u64);
        searched.failed.iter().for_each(|failed| section.broke(failed));
    });
}
