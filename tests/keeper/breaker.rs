//! The breaker: a plan that would affect too many workspaces is held; an approval applies exactly the listed actions.

use crate::support::{
    daemon::{Site, until},
    podman::inspected,
};

#[test]
fn plan_over_limit_is_held_and_approval_applies_listed_actions() {
    let mut site = Site::new("[sweep]\nunknown_grace = \"1s\"\n");
    site.serve();
    let unknown = [("one", None), ("two", None), ("three", None), ("four", None)];
    site.create_all(&unknown);
    let containers = unknown.map(|(name, _)| site.show(name)["container_id"].as_str().unwrap().to_owned());
    let running = || {
        let states = containers.iter().map(|container| inspected(container, "{{.State.Status}}").unwrap());
        states.filter(|state| state == "running").count()
    };
    for (name, _) in unknown {
        site.forget_row(name);
    }

    let held = site.sweep_until("reap_unknown", |run| {
        run["outcome"] == "held" && run["actions"].as_array().unwrap().len() == 4
    });
    assert!(held["detail"].as_str().unwrap().contains("the limit is 3 of the 4 known"), "{held}");
    for _ in 0..3 {
        site.sweep("reap_unknown");
    }
    assert_eq!(running(), 4, "a held plan was partly applied");
    let pass = site.json(["sweep", "show", "reap_unknown"]);
    let plan = pass["held"]["id"].as_str().unwrap();
    assert_eq!(pass["held"]["actions"].as_array().unwrap().len(), 4, "{pass}");
    assert!(
        site.ostler(["doctor"]).stdout.contains("sweep approve"),
        "the doctor does not report the held plan"
    );
    assert_ne!(
        site.ostler(["sweep", "run", "reap_unknown"]).code,
        0,
        "`sweep run` reports success for a held plan"
    );
    assert_ne!(site.ostler(["sweep", "approve", "reap_unknown", "00000000"]).code, 0);
    assert_eq!(running(), 4, "a plan was approved by a wrong id");

    site.ostler(["sweep", "approve", "reap_unknown", plan]).well();
    until("the containers of all four workspaces are in the trash", || {
        let trash = site.trash();
        (trash.len() == 4 && trash.iter().all(|entry| entry["state"] == "kept")).then_some(())
    });
    assert_eq!(running(), 0);

    // The approval does not include a container that became unknown later. The actions of the last hour count towards
    // the limit.
    let fifth = site.create("five", &[])["container_id"].as_str().unwrap().to_owned();
    site.forget_row("five");
    let held = site.sweep_until("reap_unknown", |run| run["outcome"] == "held");
    assert!(held["detail"].as_str().unwrap().contains("4 were affected in the last hour"), "{held}");
    assert_eq!(
        inspected(&fifth, "{{.State.Status}}").unwrap(),
        "running",
        "an approval applied to an object that was not listed: {held}"
    );
}
