//! Listings that may be acted upon.
//!
//! An empty answer looks the same whether everything is gone, the socket is another user's, the storage
//! is another one, or a disk was not mounted. So an engine is recognised by a sentinel volume made when
//! it was first accepted, and a listing counts only if the sentinel was there before *and* after it.
//! [`TrustedListing`] has no other constructor: what decides on absence takes one, and so cannot be
//! called with anything less.
//!
//! Nothing mounts the sentinel, so `podman volume prune` deletes it. Containers that the registry knows by
//! their ids are as good: an engine that shows one of them is the one that was accepted ([`Evidence`]). The
//! sentinel is not made again by itself: between the proof and the making, the socket could come to lead to
//! another engine, which would be trusted from then on.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::{Engine, EngineError, EngineResult, Trouble, VolumeSpec};
use crate::{
    clock::Clock,
    domain::{
        ids::InstanceId,
        naming::{LABEL_INSTANCE, instance_name},
        observed::{Observed, ObservedContainer},
        runtime::User,
        time::{Awake, Timestamp},
    },
    mutation::{Mutation, is},
};

/// What the registry knows of the containers in the engine that was accepted.
#[async_trait]
pub trait Evidence: Send + Sync {
    /// Whether one of these containers is, by its id, a row's or in the trash.
    ///
    /// # Errors
    /// Why the registry could not be asked.
    async fn knows_one_of(&self, containers: &[ObservedContainer]) -> Result<bool, String>;
}

/// A complete look at everything of this instance in the engine that was accepted.
#[derive(Clone, Debug)]
pub struct TrustedListing {
    observed: Observed,
    /// The wall clock *before* the engine was asked: nothing newer can be missing from the listing.
    asked_at: Timestamp,
    awake: Awake,
}

impl TrustedListing {
    /// What is there.
    #[must_use]
    pub fn observed(&self) -> &Observed {
        &self.observed
    }

    /// The wall clock before the engine was asked.
    #[must_use]
    pub fn asked_at(&self) -> Timestamp {
        self.asked_at
    }

    /// The awake clock before the engine was asked.
    #[must_use]
    pub fn awake(&self) -> Awake {
        self.awake
    }
}

/// Why there is no listing to act on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Untrusted {
    /// The engine did not answer, or not well.
    #[error("the engine gave no answer to act on")]
    NoAnswer(#[source] EngineError),
    /// It answers, but is not the engine that was accepted.
    #[error(
        "the engine holds neither the volume `{0}` by which ostler recognises it nor any container of this \
         instance: it looks like another user's engine, another storage, or a disk that is not mounted. Nothing \
         is changed until it is back. If it is the right one and was pruned (`podman system prune`), say \
         `ostler doctor --accept-engine`"
    )]
    SentinelMissing(String),
    /// The engine answers, and the registry could not say whether the containers there are its own.
    #[error("the registry could not say which containers are its own: {0}")]
    RegistryFailed(String),
}

/// Takes a listing that may be acted upon.
///
/// # Errors
/// [`Untrusted`] says why there is none; nobody may then conclude that something is gone.
pub async fn look(
    engine: &dyn Engine,
    clock: &dyn Clock,
    instance: InstanceId,
    evidence: &dyn Evidence,
) -> Result<TrustedListing, Untrusted> {
    let (asked_at, awake) = (clock.now(), clock.awake());
    let label = instance.to_string();
    recognise(engine, instance, evidence).await?;
    let containers = engine
        .list_containers(LABEL_INSTANCE, (!is(Mutation::ForgetInstance)).then_some(label.as_str()))
        .await
        .map_err(Untrusted::NoAnswer)?;
    let volumes =
        engine.list_volumes(LABEL_INSTANCE, Some(label.as_str())).await.map_err(Untrusted::NoAnswer)?;
    recognise(engine, instance, evidence).await?;
    Ok(TrustedListing { observed: Observed { containers, volumes }, asked_at, awake })
}

/// Makes the sentinel in an engine that is accepted now. One that is there already stays.
///
/// # Errors
/// When the engine cannot make it.
pub async fn accept(engine: &dyn Engine, instance: InstanceId) -> EngineResult<()> {
    let labels = BTreeMap::from([(LABEL_INSTANCE.to_owned(), instance.to_string())]);
    let spec = VolumeSpec { name: instance_name(instance), labels, owner: User { uid: 0, gid: 0 } };
    match engine.create_volume(&spec).await {
        Err(error) if error.trouble == Trouble::Conflict => Ok(()),
        other => other,
    }
}

/// Whether the engine is the one that was accepted: it holds the sentinel, or a container that the registry knows.
///
/// # Errors
/// [`Untrusted`] when it is not, or does not say.
pub async fn recognise(
    engine: &dyn Engine,
    instance: InstanceId,
    evidence: &dyn Evidence,
) -> Result<(), Untrusted> {
    if has_sentinel(engine, instance).await.map_err(Untrusted::NoAnswer)? || is(Mutation::TrustAnyEngine) {
        return Ok(());
    }
    let label = instance.to_string();
    let listed = engine.list_containers(LABEL_INSTANCE, Some(&label)).await.map_err(Untrusted::NoAnswer)?;
    if !is(Mutation::SentinelOnly)
        && evidence.knows_one_of(&listed).await.map_err(Untrusted::RegistryFailed)?
    {
        return Ok(());
    }
    Err(Untrusted::SentinelMissing(instance_name(instance)))
}

/// Whether the engine holds the sentinel.
///
/// # Errors
/// When the engine does not say.
pub async fn has_sentinel(engine: &dyn Engine, instance: InstanceId) -> EngineResult<bool> {
    match engine.inspect_volume(&instance_name(instance)).await {
        Ok(_) => Ok(true),
        Err(error) if error.trouble == Trouble::Absent => Ok(false),
        Err(error) => Err(error),
    }
}
