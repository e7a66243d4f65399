//! Checks the engine, and how much of the machine its process uses.

use super::verdict::{fail, ok, warn};
use crate::{
    api::doctor::Check,
    engine::{Engine, EngineUse},
};

/// Share of a core above which the engine check warns. An idle engine uses none.
const BUSY_ENGINE_CORES: f64 = 0.8;

/// Memory of the engine's process above which the check warns of a leak. Podman uses 40 MiB, 70 with 200 containers.
const LARGE_ENGINE_BYTES: u64 = 512 << 20;

/// Checks that the engine answers and that it can enforce resource limits.
pub async fn engine(engine: &dyn Engine) -> Check {
    match engine.describe().await {
        Ok(info) => {
            let found = format!(
                "{} at {}{}",
                info.version,
                info.address,
                if info.rootless { ", rootless" } else { "" }
            );
            match info.limits_note() {
                None => ok("engine", found),
                Some(note) => warn(
                    "engine",
                    format!("{found}; {note}"),
                    "one workspace can use all of the machine's resources. Rootless limits need cgroup v2 with the \
                     controllers delegated to the user (systemd: `Delegate=yes` for user@.service)",
                ),
            }
        }
        Err(error) => {
            fail("engine", error.to_string(), format!("start Podman's service: {}", engine.commands().start))
        }
    }
}

/// Checks CPU and memory use of the engine's own process; `None` if they cannot be read.
pub(super) async fn engine_use(engine: &dyn Engine) -> Option<Check> {
    let EngineUse { process, memory_bytes, cores } = engine.process_use().await.ok()??;
    let found = format!(
        "Podman's service (process {process}) uses {:.0} % of a core and {} MiB of memory",
        cores * 100.0,
        memory_bytes >> 20
    );
    Some(if cores > BUSY_ENGINE_CORES || memory_bytes > LARGE_ENGINE_BYTES {
        warn(
            "engine use",
            found,
            format!(
                "if this persists, restart Podman's service (containers keep running): {}",
                engine.commands().restart
            ),
        )
    } else {
        ok("engine use", found)
    })
}
