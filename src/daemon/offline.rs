//! The checks that need no running daemon.

use std::{path::Path, sync::Arc};

use super::parts::engine_of;
use crate::{
    api,
    config::Config,
    doctor,
    registry::{IdentityError, identity},
    runtime::clock::{SharedClock, SystemClock},
    store::Store,
};

/// Advice for a database that cannot be read, if the error itself gives none.
const RESTORE: &str = "if the error above gives no advice: move ostler.db-wal and ostler.db-shm away, then restore \
                       a backup of ostler.db";

/// Runs the checks that need no running daemon.
///
/// # Errors
/// Never: a check that cannot be completed is reported as a failed check.
pub async fn doctor_offline(config: Config) -> anyhow::Result<api::doctor::DoctorReport> {
    // The registry is checked first. If `ostler serve` would refuse this data directory, `daemon_offline` must not
    // advise to start the daemon.
    let registry = registry_offline(&config.data_dir).await;
    let mut checks = vec![daemon_offline(&config, registry.verdict == "fail")];
    let clock: SharedClock = Arc::new(SystemClock::start());
    match engine_of(&config, &clock) {
        Ok(engine) => checks.push(doctor::engine(&*engine).await),
        Err(error) => checks.push(doctor::fail("engine", format!("{error:#}"), "see `ostler config show`")),
    }
    checks.push(doctor::disk(existing_part(&config.data_dir)));
    checks.push(registry);
    Ok(api::doctor::DoctorReport { checks })
}

/// Reports why no daemon answered, and whether to start one.
fn daemon_offline(config: &Config, is_refused: bool) -> api::doctor::Check {
    let socket = config.socket();
    let socket_path = socket.display();
    match std::os::unix::net::UnixStream::connect(&socket) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            return doctor::fail(
                "daemon",
                format!("cannot check whether a daemon serves {socket_path}: {error}"),
                "run this as the owner of the data directory, or choose another directory with --data-dir",
            );
        }
        Ok(_) => {
            return doctor::fail(
                "daemon",
                format!("the daemon at {socket_path} does not respond"),
                "check whether its process is stopped (`kill -CONT PID` resumes it) or the machine is overloaded",
            );
        }
        Err(_) => {}
    }
    let advice = if is_refused {
        "fix the `registry` check below first: until then `ostler serve` refuses to start"
    } else if rustix::process::getuid().is_root() {
        "start it: `ostler serve`, or `systemctl start ostler`"
    } else {
        "start it: `ostler serve`, or `systemctl --user start ostler`"
    };
    doctor::fail("daemon", format!("no daemon serves {socket_path}"), advice)
}

/// Checks the registry's files as a start of the daemon would.
async fn registry_offline(data_dir: &Path) -> api::doctor::Check {
    let fail =
        |error: &dyn std::fmt::Display, advice: &str| doctor::fail("registry", error.to_string(), advice);
    let record = match identity::refuse_copy(data_dir) {
        Ok(record) => record,
        Err(error) => return fail(&error, "nothing was changed; follow the advice in the error"),
    };
    match data_dir.join(crate::store::FILE_NAME).try_exists() {
        Ok(true) => {}
        Err(error) => {
            return fail(
                &format!("{}: {error}", data_dir.display()),
                "run this as the owner of the data directory, or choose another directory with --data-dir",
            );
        }
        Ok(false) => {
            return match record {
                None => doctor::ok("registry", "none yet; the first `ostler serve` creates it"),
                Some(record) => doctor::warn(
                    "registry",
                    format!("the database is missing; its mirror file records instance {}", record.instance),
                    "restore ostler.db from a backup if you have one. Otherwise `ostler serve` creates a new \
                     registry and changes nothing automatically; `ostler adopt --dry-run` lists the workspaces that \
                     can be adopted",
                ),
            };
        }
    }
    let store = match Store::open_read_only(data_dir) {
        Ok(store) => store,
        Err(error) => return fail(&error, RESTORE),
    };
    match identity::refuse_mixed(&store, record.as_ref(), data_dir).await {
        Ok(Some(registry)) => doctor::ok("registry", format!("instance {}", registry.instance)),
        Ok(None) => doctor::ok("registry", "new, no instance id yet"),
        Err(IdentityError::Store(error)) => fail(&error, RESTORE),
        Err(error) => fail(&error, "nothing was changed; follow the advice in the error"),
    }
}

/// `path`, or its nearest ancestor that exists: before the first start, the data directory does not exist.
fn existing_part(path: &Path) -> &Path {
    path.ancestors().find(|part| part.exists()).unwrap_or(path)
}
