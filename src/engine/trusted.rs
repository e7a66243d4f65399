//! Listings that may be acted upon.
//!
//! An empty answer looks the same whether everything is gone, the socket is another user's, the storage
//! is another one, or a disk was not mounted. So an engine is recognised by a sentinel volume made when
//! it was first accepted, and a listing counts only if the sentinel was there before *and* after it.
//! [`TrustedListing`] has no other constructor: what decides on absence takes one, and so cannot be
//! called with anything less.

use std::collections::BTreeMap;

use super::{Engine, EngineError, EngineResult, Trouble, VolumeSpec};
use crate::{
    clock::Clock,
    domain::{
        ids::InstanceId,
        naming::{LABEL_INSTANCE, instance_name},
        observed::Observed,
        runtime::User,
        time::{Awake, Timestamp},
    },
    mutation::{Mutation, is},
};

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
        "the engine does not hold the volume `{0}` by which ostler recognises it: it looks like another \
         user's engine, another storage, or a disk that is not mounted. Nothing is changed until it is \
         back, or until you say `ostler doctor --accept-engine`"
    )]
    SentinelMissing(String),
}

/// Takes a listing that may be acted upon.
///
/// # Errors
/// [`Untrusted`] says why there is none; nobody may then conclude that something is gone.
pub async fn look(
    engine: &dyn Engine,
    clock: &dyn Clock,
    instance: InstanceId,
) -> Result<TrustedListing, Untrusted> {
    let (asked_at, awake) = (clock.now(), clock.awake());
    let label = instance.to_string();
    sentinel(engine, instance).await?;
    let containers = engine
        .list_containers(LABEL_INSTANCE, (!is(Mutation::ForgetInstance)).then_some(label.as_str()))
        .await
        .map_err(Untrusted::NoAnswer)?;
    let volumes =
        engine.list_volumes(LABEL_INSTANCE, Some(label.as_str())).await.map_err(Untrusted::NoAnswer)?;
    sentinel(engine, instance).await?;
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

/// Whether the engine is the one that was accepted.
///
/// # Errors
/// [`Untrusted`] when it is not, or does not say.
pub async fn sentinel(engine: &dyn Engine, instance: InstanceId) -> Result<(), Untrusted> {
    let name = instance_name(instance);
    match engine.inspect_volume(&name).await {
        Ok(_) => Ok(()),
        Err(_) if is(Mutation::TrustAnyEngine) => Ok(()),
        Err(error) if error.trouble == Trouble::Absent => Err(Untrusted::SentinelMissing(name)),
        Err(error) => Err(Untrusted::NoAnswer(error)),
    }
}
