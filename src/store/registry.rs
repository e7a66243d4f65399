//! Who this registry is, and whether it trusts itself.

use std::{collections::BTreeSet, net::IpAddr};

use rusqlite::{OptionalExtension, params};
use serde_json::json;

use super::{Store, StoreResult};
use crate::domain::{event::EventKind, ids::InstanceId, time::Timestamp};

/// The registry's own row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registry {
    /// The identity that labels everything of ours.
    pub instance: InstanceId,
    /// How many rows were ever made; the mirror file holds the same number.
    pub generation: i64,
    /// Since when unknown things are held, because the registry was lost or restored.
    pub recovering_since: Option<Timestamp>,
    /// When the engine was accepted; from then on its sentinel has to be there.
    pub engine_accepted_at: Option<Timestamp>,
}

/// How workspaces reached this host when the engine last answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostReach {
    /// Whether the engine is rootless: containers then reach an address of this host, and it has no gateways.
    pub rootless: bool,
    /// The gateways of the workspaces' networks.
    pub gateways: BTreeSet<IpAddr>,
}

impl Store {
    /// The registry's row, or `None` in a database that has not been given an identity yet.
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
            .write("found registry", move |tx| {
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

    /// Begins to hold everything unknown. `generation` is the mirror's, so that the next loss shows again.
    /// Purges that are ordered and not carried out are cancelled: what is to be deleted for good may have been undeleted
    /// since the copy was made, and the trash keeps it for its time.
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
                let told = json!({ "reason": why, "purges_cancelled": cancelled });
                tx.tell(at, EventKind::RegistryRecovering, None, told, None)
            })
            .await
    }

    /// Ends the hold. Answers whether there was one.
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
                    tx.tell(at, EventKind::RegistrySettled, None, json!({ "reason": why }), None)?;
                }
                Ok(ended > 0)
            })
            .await
    }

    /// Records that the engine which holds our sentinel now is the one to trust.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn accept_engine(&self, at: Timestamp, engine: String) -> StoreResult<()> {
        self.lanes
            .write("accept engine", move |tx| {
                tx.sql.execute("UPDATE registry SET engine_accepted_at = ?1", params![at])?;
                tx.tell(at, EventKind::EngineAccepted, None, json!({ "engine": engine }), None)
            })
            .await
    }

    /// Becomes another instance. Only an empty registry may: answers `false` otherwise.
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
                    let why = json!({ "reason": format!("took over the identity {instance}") });
                    tx.tell(at, EventKind::RegistryRecovering, None, why, None)?;
                }
                Ok(became > 0)
            })
            .await
    }

    /// What [`Self::keep_host_reach`] kept last, or `None` before the first time.
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

    /// Keeps how workspaces reach this host, for a start while the engine is away.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn keep_host_reach(&self, reach: HostReach) -> StoreResult<()> {
        self.lanes
            .write("keep host reach", move |tx| {
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
