//! Lists, shows, creates, changes and removes workspaces.

mod answer;
mod create;
mod directory;
mod fields;
mod remove;
mod show;
mod update;

pub(in crate::http) use create::create;
pub(in crate::http) use remove::remove;
pub(in crate::http) use show::{list, show};
pub(in crate::http) use update::update;
