//! Resource limits of the tiers, measured inside the container.

use crate::support::{daemon::Site, podman::inspected};

fn inside(site: &Site, name: &str, script: &str) -> String {
    site.ostler(["exec", name, "--", "sh", "-c", script]).stdout
}

#[test]
fn every_tier_runs_unprivileged_with_its_resource_limits() {
    let mut site = Site::new("");
    site.serve();
    for (name, tier) in [("sandbox", "1"), ("usual", "2"), ("large", "3")] {
        site.create(name, &["--no-wait", "--tier", tier]);
    }
    for name in ["sandbox", "usual", "large"] {
        site.until_status(name, "online");
    }

    let rights = "id -u; grep -E '^(CapEff|CapBnd|NoNewPrivs)' /proc/self/status | tr '\\t' ' '";
    for name in ["sandbox", "usual", "large"] {
        let output = inside(&site, name, rights);
        assert!(output.starts_with("1000\n"), "{name} runs as another user: {output}");
        assert!(output.contains("CapEff: 0000000000000000"), "{name} has capabilities: {output}");
        assert!(output.contains("NoNewPrivs: 1"), "{name} may gain privileges: {output}");
    }
    let write = |path: &str| format!("if echo x 2>&- > {path}/probe; then echo yes; else echo no; fi 2>&-");
    for (name, path, may) in [
        ("sandbox", "/var", "no"),
        ("sandbox", "/tmp", "yes"),
        ("sandbox", "/workspace", "no"),
        ("usual", "/workspace", "yes"),
        ("usual", "/configs", "yes"),
    ] {
        assert_eq!(inside(&site, name, &write(path)).trim(), may, "{name} writes to {path}");
    }
    for (name, mib, cpus) in [("sandbox", 512_u64, 1_u64), ("usual", 512, 1), ("large", 2048, 2)] {
        let container = site.show(name)["container_id"].as_str().unwrap().to_owned();
        let memory_and_pids = inspected(
            &container,
            "{{.HostConfig.Memory}} {{.HostConfig.PidsLimit}} {{.HostConfig.Privileged}}",
        );
        assert_eq!(memory_and_pids.unwrap(), format!("{} 512 false", mib << 20), "{name}");
        let quota = inspected(&container, "{{.HostConfig.CpuQuota}} {{.HostConfig.CpuPeriod}}").unwrap();
        assert_eq!(quota, format!("{} 100000", cpus * 100_000), "{name}");
        let policy = inspected(&container, "{{.HostConfig.RestartPolicy.Name}}").unwrap();
        assert!(["", "no"].contains(&policy.as_str()), "Podman would restart the container too: {policy}");
    }
}
