//! Creation of workspaces, with and without a pull; a start that fails; adoption and restoration of unknown workspaces.

use super::{SCENARIO, Scenario, Stage};
use crate::support::{
    daemon::until,
    engine_proxy::{Fault, Moment, Rule},
    hasty::{AGENT, creation, make},
    podman::{image, podman_output},
};

/// Whether the registry has the workspace's row. It has none if the daemon was killed before the creation.
fn is_created(point: &str) -> bool {
    point != "before create workspace"
}

fn ends_online(stage: &mut Stage, point: &str) {
    let name = stage.named("made");
    if is_created(point) {
        stage.site.until_status(&name, "online");
        stage.purge(&name);
    } else {
        let shown = stage.order(&["show", &name]);
        assert_eq!(shown.code, 3, "killed {point}, there is a row: {shown:?}");
    }
}

fn create(stage: &mut Stage) {
    let name = stage.named("made");
    stage.order(&creation(&name, &[]));
}

/// A name that no image has.
fn pulled_image(stage: &Stage) -> String {
    format!("localhost/ostler-crash-points-{}:{}", stage.site.instance(), stage.round)
}

pub(super) const ALL: &[Scenario] = &[
    Scenario {
        name: "a workspace is created",
        steps: &[
            "create workspace",
            "mirror: replace the file",
            "2nd mirror: replace the file",
            "allocate port",
            "start: create a volume",
            "2nd start: create a volume",
            "edit workspace",
            "start: create its container",
            "stop: stop a container",
            "begin start",
            "start: write its token",
            "start: write its configuration",
            "start: start its container",
            "change status",
        ],
        more: "config_template = \"model: small\\n\"\n",
        act: create,
        check: ends_online,
        // A crash may leave a container that a sweep moves to the trash.
        places_per_site: 4,
        ..SCENARIO
    },
    Scenario {
        name: "a workspace is created, and its image is pulled",
        steps: &["start: pull its image"],
        prepare: |stage| {
            let name = pulled_image(stage);
            stage.proxy.observe(move |request, moment| {
                if request.path.contains("/images/pull") && moment == Moment::Arrived {
                    podman_output(["tag", image(), &name]);
                }
            });
            let pulled = Fault::Answer("{\"id\":\"pulled\",\"images\":[\"pulled\"]}\n".into());
            stage.proxy.set_rules([Rule::on("POST", "/images/pull", pulled)]);
        },
        act: |stage| {
            let (name, image) = (stage.named("made"), pulled_image(stage));
            stage.order(&["create", &name, "--image", &image, "--", "sh", "-c", AGENT]);
        },
        check: |stage, point| {
            ends_online(stage, point);
            // `podman untag` without the name would remove all names of the image.
            podman_output(["untag", image(), &pulled_image(stage)]);
        },
        ..SCENARIO
    },
    Scenario {
        name: "a start fails after it created a container",
        steps: &["start: discard a container"],
        act: |stage| {
            stage
                .proxy
                .set_rules([Rule::on("POST", "/stop", Fault::Status(500, "injected".into())).times(1)]);
            create(stage);
        },
        mend: |stage| stage.proxy.set_rules([]),
        check: ends_online,
        ..SCENARIO
    },
    Scenario {
        name: "an unknown workspace is adopted",
        steps: &["adopt workspace"],
        change: long_grace,
        set: |stage| {
            stage.site.serve();
            make(&stage.site, "unknown");
        },
        meanwhile: |stage| stage.site.forget_row("unknown"),
        act: |stage| stage.repeat(&["adopt", "--all"]),
        then: |stage| drop(stage.order(&["adopt", "--all"])),
        check: |stage, point| {
            let row = stage.site.show("unknown");
            assert_eq!(row["status"], "online", "killed {point}: {row:#}");
        },
        ..SCENARIO
    },
    Scenario {
        name: "an unknown workspace is restored from the trash",
        steps: &["begin restore"],
        places_per_site: 1,
        prepare: |stage| {
            make(&stage.site, "unknown");
            stage.site.forget_row("unknown");
            until("it is in the trash", || {
                stage.site.sweep("reap_unknown");
                stage.site.trash().iter().any(|entry| entry["state"] == "kept").then_some(())
            });
        },
        act: |stage| stage.repeat(&["trash", "restore", "unknown"]),
        then: |stage| drop(stage.order(&["trash", "restore", "unknown"])),
        check: |stage, point| {
            let row = stage.site.show("unknown");
            assert_eq!(row["status"], "paused", "killed {point}: {row:#}");
            stage.site.ostler(["start", "unknown"]).well();
        },
        ..SCENARIO
    },
];

/// Lengthens the grace, so that no sweep moves the unknown workspace to the trash before it is adopted.
fn long_grace(config: &str) -> String {
    config.replace("unknown_grace = \"1s\"", "unknown_grace = \"1h\"")
}
