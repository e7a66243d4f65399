//! Reloads the configuration while the daemon runs.

use std::{
    fs,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::Context as _;
use tokio::sync::Notify;

use super::settings::settings_of;
use crate::{
    api::configuration::{ConfigDifference, Reloaded, RunningConfig, RunningSetting},
    config::{self, Config, Difference, Overrides, differences},
    doctor::Configured,
    domain::ids::InstanceId,
    ops::Ops,
    telemetry,
};

/// The configuration in force.
pub(super) struct Running {
    /// Locked for a whole reload. Otherwise, of two concurrent reloads, the one that read the older file could be
    /// applied last.
    config: Mutex<Config>,
    /// The flags and environment that the daemon was started with. Whenever the file is read, they take precedence over
    /// it.
    overrides: Overrides,
    ops: Ops,
    instance: InstanceId,
}

impl Running {
    pub(super) fn new(config: Config, overrides: Overrides, ops: Ops, instance: InstanceId) -> Self {
        Self { config: Mutex::new(config), overrides, ops, instance }
    }

    /// Reloads at each notification.
    pub(super) async fn reload_when(self: Arc<Self>, notified: Arc<Notify>) {
        loop {
            notified.notified().await;
            // The result is ignored here: `reload` logs it.
            let _logged = self.reload();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Config> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the configuration as the daemon would if it started now.
    ///
    /// # Errors
    /// If the file is invalid, not a regular file, or gone although one was read before.
    fn read(&self, running: &Config) -> anyhow::Result<Config> {
        // A pipe that is read a second time is empty, which would look like a file without keys. A pipe without a
        // writer blocks the reader.
        let path = self.overrides.path();
        if fs::metadata(&path).is_ok_and(|found| !found.is_file()) {
            anyhow::bail!(
                "{} is not a regular file and cannot be reread. Write the configuration to a regular file and \
                 restart the daemon with it",
                path.display()
            );
        }
        let read = config::load(&self.overrides)?.config;
        // `load` applies the defaults if there is no file. A file that is being replaced may be missing for a moment,
        // and must not cause that.
        if let (Some(file), None) = (&running.file, &read.file) {
            anyhow::bail!("the configuration file {} no longer exists: restore it", file.display());
        }
        Ok(read)
    }

    fn try_reload(&self) -> anyhow::Result<Reloaded> {
        let mut running = self.lock();
        let read = self.read(&running)?;
        let next = running.reloaded(&read);
        if next.log.level != running.log.level {
            // The only step that can fail comes before the others, so that a failed reload changes nothing.
            telemetry::set_filter(&next.log.level).context("cannot apply `log.level`")?;
        }
        self.ops.replace_settings(settings_of(&next, self.instance));
        let applied = view(differences(&running, &next), "reload");
        let waiting = view(differences(&next, &read), "restart");
        *running = next;
        Ok(Reloaded { file: read.file, applied, waiting })
    }
}

impl Configured for Running {
    fn running(&self) -> RunningConfig {
        let running = self.lock().clone();
        let read = self.read(&running);
        let (differences, problem) = match &read {
            Ok(read) => {
                let next = running.reloaded(read);
                let mut found = view(differences(&running, &next), "reload");
                found.extend(view(differences(&next, read), "restart"));
                (found, None)
            }
            Err(error) => (Vec::new(), Some(format!("{error:#}"))),
        };
        let settings = running.values().into_iter().map(|(key, value)| RunningSetting { key, value });
        RunningConfig { settings: settings.collect(), file: running.file, differences, problem }
    }

    fn reload(&self) -> Result<Reloaded, String> {
        let keys = |list: &[ConfigDifference]| {
            list.iter().map(|one| one.key.as_str()).collect::<Vec<_>>().join(", ")
        };
        match self.try_reload() {
            Ok(reloaded) => {
                tracing::info!(
                    applied = %keys(&reloaded.applied), waiting_for_restart = %keys(&reloaded.waiting),
                    "configuration reloaded"
                );
                Ok(reloaded)
            }
            Err(error) => {
                let error = format!("{error:#}");
                tracing::error!(%error, "configuration not reloaded; the current values stay in effect");
                Err(error)
            }
        }
    }

    fn file_has_runtime(&self, name: &str) -> bool {
        let running = self.lock().clone();
        self.read(&running).is_ok_and(|read| read.runtimes.contains_key(name))
    }
}

fn view(differences: Vec<Difference>, applied_by: &str) -> Vec<ConfigDifference> {
    let view = |Difference { key, before, after }| ConfigDifference {
        key,
        running: before,
        configured: after,
        applied_by: applied_by.to_owned(),
    };
    differences.into_iter().map(view).collect()
}
