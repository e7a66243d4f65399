//! Every durable step has its two crash points, and every crash point belongs to a step.

use std::{collections::BTreeMap, path::Path};

use ostler::testing::crash_point::STEPS;

use super::sources;

/// Calls that change the engine, or the mirror file beside the database.
const CHANGES: [&str; 15] = [
    "engine.create_container(",
    "engine.start_container(",
    "engine.stop_container(",
    "engine.rename_container(",
    "engine.delete_container(",
    "engine.create_volume(",
    "engine.repair_volume(",
    "engine.delete_volume(",
    "engine.write_file(",
    "engine.ensure_network(",
    "engine.delete_network(",
    "engine.pull_image(",
    "mirror.write(",
    "mirror.note_generation(",
    "mirror.update(",
];

/// Transactions that change nothing.
const READ_ONLY: [&str; 1] = ["verify memory"];

/// The code of a file without its unit tests.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap_or(text)
}

/// The string literals that follow each call of this function.
fn literals<'a>(text: &'a str, call: &str) -> Vec<&'a str> {
    let mut rest = text;
    let mut found = Vec::new();
    while let Some(at) = rest.find(call) {
        rest = &rest[at + call.len()..];
        if let Some(literal) = rest.trim_start().strip_prefix('"') {
            found.push(literal.split('"').next().unwrap_or_default());
        }
    }
    found
}

/// Counts, for each name, the calls in all source files that pass it to this function.
fn counted(call: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for (file, text) in sources() {
        if file != Path::new("testing/crash_point.rs") {
            for name in literals(without_tests(&text), call) {
                *counts.entry(name.to_owned()).or_default() += 1;
            }
        }
    }
    counts
}

#[test]
fn every_durable_step_has_a_crash_point_before_and_after_it() {
    let (before, after) = (counted("crash_point::before("), counted("crash_point::after("));
    let transactions = counted(".write(");
    assert!(transactions.len() > 40, "only {} transactions were found", transactions.len());
    let places = [("before", &before), ("after", &after)];
    let mut broken = Vec::new();
    for (step, _) in STEPS {
        let transaction = transactions.get(*step).copied().unwrap_or_default();
        for (moment, places) in places {
            let there = places.get(*step).copied().unwrap_or_default();
            if there + transaction != 1 {
                broken
                    .push(format!("there are {} crash points {moment} `{step}`, not 1", there + transaction));
            }
        }
    }
    let listed = |name: &str| STEPS.iter().filter(|(step, _)| *step == name).count();
    let changes = transactions.keys().filter(|label| !READ_ONLY.contains(&label.as_str()));
    for name in places.iter().flat_map(|(_, places)| places.keys()).chain(changes) {
        if listed(name) != 1 {
            broken.push(format!(
                "`{name}` is {} times in the list of src/testing/crash_point.rs, not once",
                listed(name)
            ));
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn every_transaction_passes_its_crash_points() {
    let lane = &sources()[Path::new("store/lane/job.rs")];
    for location in ["crash_point::before(self.label)", "crash_point::after(label)"] {
        assert_eq!(without_tests(lane).matches(location).count(), 1, "{location}");
    }
    let named = |text: &str| {
        text.matches("crash_point::before(").count() + text.matches("crash_point::after(").count()
    };
    for (file, text) in sources() {
        let literal =
            literals(&text, "crash_point::before(").len() + literals(&text, "crash_point::after(").len();
        let lanes = if file == Path::new("store/lane/job.rs") { 2 } else { 0 };
        assert_eq!(named(&text), literal + lanes, "{}: a crash point has no literal name", file.display());
    }
}

/// The changes in a file that are not between the two crash points of one step.
fn bare_changes(text: &str) -> Vec<String> {
    let text = without_tests(text);
    let called = |text: &str, call: &str| text.find(call).map(|at| text[at..].to_owned());
    let mut bare = Vec::new();
    for (at, change) in CHANGES.iter().flat_map(|change| text.match_indices(change)) {
        let last =
            text[..at].rfind("crash_point::").and_then(|last| called(&text[last..at], "crash_point::"));
        let next = called(&text[at..], "crash_point::");
        let step = |location: Option<String>, moment: &str| {
            Some(literals(&location?, &format!("crash_point::{moment}(")).first()?.to_string())
        };
        let begins = last.as_ref().is_some_and(|last| last.starts_with("crash_point::before("));
        let ends = next.as_ref().is_some_and(|next| next.starts_with("crash_point::after("));
        if !begins || !ends || step(last, "before") != step(next, "after") {
            bare.push(change.to_owned());
        }
    }
    bare
}

#[test]
fn engine_and_mirror_changes_lie_between_two_crash_points() {
    let mut changes = 0;
    for (file, text) in sources() {
        if file.starts_with("ops") || file == Path::new("registry/identity.rs") {
            let bare = bare_changes(&text);
            assert!(bare.is_empty(), "{}: no crash points around {bare:?}", file.display());
            changes +=
                CHANGES.iter().map(|change| without_tests(&text).matches(change).count()).sum::<usize>();
        }
    }
    assert!(changes > 15, "only {changes} changes were found");
}

#[test]
fn change_without_crash_points_is_detected() {
    let around =
        "crash_point::before(\"a\");\nself.engine.stop_container(id).await?;\ncrash_point::after(\"a\");";
    assert_eq!(bare_changes(around), Vec::<String>::new());
    for broken in [
        "self.engine.stop_container(id).await?;",
        "crash_point::before(\"a\");\nself.engine.stop_container(id).await?;\ncrash_point::after(\"b\");",
        "crash_point::before(\"a\");\nself.engine.stop_container(id).await?;",
        "crash_point::before(\"a\");\ncrash_point::after(\"a\");\nself.engine.stop_container(id).await?;",
    ] {
        assert_eq!(bare_changes(broken), ["engine.stop_container("], "{broken}");
    }
}
