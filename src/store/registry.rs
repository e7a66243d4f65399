//! Identity of the registry, and its recovery state.

use std::{collections::BTreeSet, net::IpAddr};

use rusqlite::{OptionalExtension, params};
use serde_json::json;

use super::{Store, StoreResult};
use crate::domain::{event::EventKind, ids::InstanceId, time::Timestamp};

/// The registry's own row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registry {
    /// Id in the labels of everything that ostler creates.
    pub instance: InstanceId,
    /// Increases with every change that must not be undone unnoticed when an older copy of the database is restored.
    /// The mirror file contains the same number.
    pub generation: i64,
    /// Since when unknown containers and volumes are held, because the registry was lost or restored from a copy.
    pub recovering_since: Option<Timestamp>,
    /// When the engine was accepted. From then on its sentinel volume must exist.
    pub engine_accepted_at: Option<Timestamp>,
}

/// How workspaces reached this host when the engine last answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostReach {
    /// Whether the engine is rootless: containers then reach an address of this host, and there are no gateways.
    pub rootless: bool,
    /// Gateways of the workspaces' networks.
    pub gateways: BTreeSet<IpAddr>,
}

impl Store {
    /// Returns the registry's row; `None` in a database that has no identity yet.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn registry(&self) -> StoreResult<Option<Registry>> {
        self.lanes
            .read("registry", |sql| {
                let mut query = sql.prepare_cached(
                    "SELECT instance, generation, recovering_since, engine_accepted_at FROM registry",
                )?;
                Ok(query
                    .query_row([], |row| {
                        Ok(Registry {
                            instance: row.get(0)?,
                            generation: row.get(1)?,
                            recovering_since: row.get(2)?,
                            engine_accepted_at: row.get(3)?,
                        })
                    })
                    .optional()?)
            })
            .await
    }

    /// Gives a new database its identity.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn found_registry(&self, registry: Registry) -> StoreResult<()> {
        self.lanes
            .write("create registry", move |tx| {
                tx.sql.execute(
                    "INSERT INTO registry (only_row, instance, generation, recovering_since, engine_accepted_at)
                     VALUES (1, ?1, ?2, ?3, ?4)",
                    params![
                        registry.instance,
                        registry.generation,
                        registry.recovering_since,
                        registry.engine_accepted_at
                    ],
                )?;
                Ok(())
            })
            .await
    }

    /// Begins a recovery, during which unknown containers and volumes are kept.
    ///
    /// `generation` is the mirror's generation. It is stored so that the next loss is detected too. Pending purge
    /// orders are cancelled, because the workspace may have been undeleted after the copy was made. The trash then
    /// keeps its container and volumes for the usual retention.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn begin_recovery(&self, at: Timestamp, generation: i64, why: String) -> StoreResult<()> {
        self.lanes
            .write("begin recovery", move |tx| {
                tx.sql.execute(
                    "UPDATE registry SET recovering_since = COALESCE(recovering_since, ?1),
                       generation = MAX(generation, ?2)",
                    params![at, generation],
                )?;
                let cancelled = tx.sql.execute(
                    "UPDATE workspaces SET purge_ordered_at = NULL WHERE purge_ordered_at IS NOT NULL",
                    [],
                )?;
                let payload = json!({ "reason": why, "purges_cancelled": cancelled });
                tx.emit(at, EventKind::RegistryRecovering, None, payload, None)
            })
            .await
    }

    /// Ends a recovery. Returns whether there was one.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn end_recovery(&self, at: Timestamp, why: String) -> StoreResult<bool> {
        self.lanes
            .write("end recovery", move |tx| {
                let ended = tx.sql.execute(
                    "UPDATE registry SET recovering_since = NULL WHERE recovering_since IS NOT NULL",
                    [],
                )?;
                if ended > 0 {
                    tx.emit(at, EventKind::RegistrySettled, None, json!({ "reason": why }), None)?;
                }
                Ok(ended > 0)
            })
            .await
    }

    /// Records that the engine with this registry's sentinel volume was accepted.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn accept_engine(&self, at: Timestamp, engine: String) -> StoreResult<()> {
        self.lanes
            .write("accept engine", move |tx| {
                tx.sql.execute("UPDATE registry SET engine_accepted_at = ?1", params![at])?;
                tx.emit(at, EventKind::EngineAccepted, None, json!({ "engine": engine }), None)
            })
            .await
    }

    /// Takes over the identity of another instance, and begins a recovery. `false` if the registry has any workspace
    /// row.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn become_instance(&self, instance: InstanceId, at: Timestamp) -> StoreResult<bool> {
        self.lanes
            .write("become instance", move |tx| {
                let became = tx.sql.execute(
                    "UPDATE registry SET instance = ?1, recovering_since = ?2, engine_accepted_at = NULL
                     WHERE NOT EXISTS (SELECT 1 FROM workspaces)",
                    params![instance, at],
                )?;
                if became > 0 {
                    let why = json!({ "reason": format!("adopted the identity of instance {instance}") });
                    tx.emit(at, EventKind::RegistryRecovering, None, why, None)?;
                }
                Ok(became > 0)
            })
            .await
    }

    /// Returns the last value stored by [`Self::keep_host_reach`]; `None` before the first.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn host_reach(&self) -> StoreResult<Option<HostReach>> {
        self.lanes
            .read("host reach", |sql| {
                let mut query =
                    sql.prepare_cached("SELECT rootless, gateways FROM host_reach WHERE only_row = 1")?;
                Ok(query
                    .query_row([], |row| {
                        let gateways: String = row.get(1)?;
                        Ok(HostReach {
                            rootless: row.get(0)?,
                            gateways: gateways
                                .split(' ')
                                .filter_map(|address| address.parse().ok())
                                .collect(),
                        })
                    })
                    .optional()?)
            })
            .await
    }

    /// Stores how workspaces reach this host, for a daemon start during an engine outage.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn keep_host_reach(&self, reach: HostReach) -> StoreResult<()> {
        self.lanes
            .write("store host reach", move |tx| {
                let gateways: Vec<_> = reach.gateways.iter().map(ToString::to_string).collect();
                tx.sql.execute(
                    "INSERT INTO host_reach (only_row, rootless, gateways) VALUES (1, ?1, ?2)
                     ON CONFLICT (only_row) DO UPDATE SET rootless = excluded.rootless, gateways = excluded.gateways",
                    params![reach.rootless, gateways.join(" ")],
                )?;
                Ok(())
            })
            .await
    }
}
