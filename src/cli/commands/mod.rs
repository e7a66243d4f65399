//! One file per command; those that only give an order share [`order`].

pub(super) mod adopt;
pub(super) mod completions;
pub(super) mod config;
pub(super) mod create;
pub(super) mod doctor;
pub(super) mod events;
pub(super) mod exec;
pub(super) mod logs;
pub(super) mod ls;
pub(super) mod man;
mod order;
pub(super) mod recreate;
pub(super) mod restart;
pub(super) mod rm;
pub(super) mod shell;
pub(super) mod show;
pub(super) mod start;
pub(super) mod stop;
pub(super) mod sweep;
mod timeline;
pub(super) mod token;
pub(super) mod trash;
pub(super) mod undelete;
pub(super) mod why;
