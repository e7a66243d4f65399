//! Listings that decisions may be based on.
//!
//! An empty listing does not show its cause. All containers may be gone, but the socket may also be another user's, the
//! storage may be a different one, or a disk may not be mounted. An engine is therefore recognised by a sentinel
//! volume, created when the engine was first accepted. A listing is trusted only if the sentinel existed before *and*
//! after it. Only [`snapshot`] creates a [`TrustedListing`], and code that decides on absence takes one as its
//! argument.
//!
//! Nothing mounts the sentinel, so `podman volume prune` deletes it. Containers that the registry knows by their ids
//! are equally good evidence: an engine that lists one of them is the accepted one ([`Evidence`]). ostler does not
//! recreate the sentinel automatically: the socket could switch to another engine after ostler has recognised the
//! accepted one and before it creates the sentinel. The other engine would be trusted from then on.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::{Engine, EngineError, EngineResult, ErrorKind, VolumeSpec};
use crate::{
    domain::{
        ids::InstanceId,
        naming::{LABEL_INSTANCE, instance_name},
        observed::{Observed, ObservedContainer},
        runtime::User,
        time::{Awake, Timestamp},
    },
    runtime::clock::Clock,
    testing::mutation::{Mutation, is},
};

/// The registry's knowledge of the containers in the accepted engine.
#[async_trait]
pub trait Evidence: Send + Sync {
    /// Whether a workspace's row or a trash entry names one of these containers by its id.
    ///
    /// # Errors
    /// Why the registry could not answer.
    async fn knows_one_of(&self, containers: &[ObservedContainer]) -> Result<bool, String>;
}

/// A complete listing of this instance's containers and volumes in the accepted engine.
#[derive(Clone, Debug)]
pub struct TrustedListing {
    observed: Observed,
    /// Wall clock *before* the listing: everything created earlier is included.
    asked_at: Timestamp,
    awake: Awake,
}

impl TrustedListing {
    /// The listed containers and volumes.
    #[must_use]
    pub fn observed(&self) -> &Observed {
        &self.observed
    }

    /// Wall clock before the listing.
    #[must_use]
    pub fn asked_at(&self) -> Timestamp {
        self.asked_at
    }

    /// Awake clock before the listing.
    #[must_use]
    pub fn awake(&self) -> Awake {
        self.awake
    }
}

/// Why there is no trusted listing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Untrusted {
    /// The engine did not answer, or returned an error.
    #[error("the engine did not answer")]
    NoAnswer(#[source] EngineError),
    /// The engine answers, but is not the accepted one.
    #[error(
        "the engine has neither the volume `{0}` that identifies it nor any known container of this instance: it may \
         be another user's engine, another storage, or a disk may not be mounted. ostler changes nothing until this is \
         resolved. If it is the right engine (for example after `podman system prune`), run \
         `ostler doctor --accept-engine`"
    )]
    SentinelMissing(String),
    /// The engine answers, but the registry could not determine which containers are its own.
    #[error("the registry could not determine which containers it knows: {0}")]
    RegistryFailed(String),
}

/// Takes a trusted listing.
///
/// # Errors
/// [`Untrusted`] says why there is none. The caller must then not conclude that anything is absent.
pub async fn snapshot(
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

/// Creates the sentinel in an engine that is being accepted. An existing sentinel stays.
///
/// # Errors
/// The engine cannot create it.
pub async fn accept(engine: &dyn Engine, instance: InstanceId) -> EngineResult<()> {
    let labels = BTreeMap::from([(LABEL_INSTANCE.to_owned(), instance.to_string())]);
    let spec = VolumeSpec { name: instance_name(instance), labels, owner: User { uid: 0, gid: 0 } };
    match engine.create_volume(&spec).await {
        Err(error) if error.kind == ErrorKind::Conflict => Ok(()),
        other => other,
    }
}

/// Verifies that the engine is the accepted one: it holds the sentinel, or a container that the registry knows.
///
/// # Errors
/// [`Untrusted`] if it is not, or if this cannot be determined.
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
/// The engine does not answer, or returns an error.
pub async fn has_sentinel(engine: &dyn Engine, instance: InstanceId) -> EngineResult<bool> {
    match engine.inspect_volume(&instance_name(instance)).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind == ErrorKind::Absent => Ok(false),
        Err(error) => Err(error),
    }
}
