//! A second run of a pass, directly after the first, does nothing.

use ostler::sweep::{Outcome, Verdict};

use crate::simulation::{
    crash::WORK,
    executor::TaskOrder,
    installation::Installation,
    invariants::{Witness, at_rest},
};

#[test]
fn second_run_of_a_pass_does_nothing() {
    for (pass, make_work) in WORK {
        let mut site = Installation::new(11, TaskOrder::AsWoken);
        let mut witness = Witness::of(&site);
        make_work(&mut site);
        let first = site.run(pass);
        let done = |verdict: &Verdict| matches!(verdict, Verdict::Applied(_));
        assert!(!first.actions.is_empty(), "{pass} found no work");
        assert!(
            first.actions.iter().all(|action| done(&action.verdict)),
            "{pass} did not complete its work: {first:#?}"
        );
        site.sim.quiesce();
        let second = site.run(pass);
        assert_eq!(
            (second.outcome, second.actions),
            (Outcome::Done, Vec::new()),
            "{pass} did work again in its second run"
        );
        witness.check(&site).unwrap();
    }
}

#[test]
fn sweep_of_a_settled_installation_changes_nothing() {
    let site = Installation::new(12, TaskOrder::AsWoken);
    site.online("a");
    site.converge();
    let before = site.world.state().log.len();
    site.sweep();
    let changing = ["create", "start", "stop", "rename", "delete", "write", "repair", "pull"];
    let state = site.world.state();
    let calls =
        state.log[before..].iter().filter(|call| changing.iter().any(|verb| call.method.starts_with(verb)));
    assert_eq!(calls.count(), 0, "a sweep without work changed something in the engine");
    drop(state);
    at_rest(&site).unwrap();
}
