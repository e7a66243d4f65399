//! A fake engine, with the visible behaviour of an engine and the ways in which one can fail.
//!
//! The state of the engine lives in [`World`], which outlives any daemon as a real engine does. A [`FakeEngine`] is one
//! connection to it. The effect of each call is carried out on a [`Stage`](ostler::runtime::tasks::Stage), so a test
//! decides when it happens. Each call can be given a [`Fault`]: refused before it takes effect, failed afterwards,
//! delayed, or never answered. A caller that gives up does not cancel its call. Events have their own faults,
//! [`EventFault`].

mod connection;
mod containers;
mod engine;
mod events;
mod faults;
mod images;
mod networks;
mod state;
mod volumes;
mod world;

use std::collections::BTreeMap;

use ostler::engine::Environment;

pub(crate) use self::{
    connection::FakeEngine,
    events::EventFault,
    faults::{Call, Fault},
    state::{FakeContainer, FakeVolume, State},
    world::World,
};

/// The environment's values, for tests that search for secrets.
#[must_use]
pub(crate) fn exposed(env: &Environment) -> &BTreeMap<String, String> {
    &env.0
}
