//! Builds checks, and chooses their verdicts.

use crate::{api::doctor::Check, store::StoreError};

/// Builds a check with the verdict `ok`.
pub fn ok(name: &str, found: impl Into<String>) -> Check {
    Check { name: name.into(), verdict: "ok".into(), found: found.into(), advice: None }
}

/// Builds a check with the verdict `warn`.
pub fn warn(name: &str, found: impl Into<String>, advice: impl Into<String>) -> Check {
    Check { name: name.into(), verdict: "warn".into(), found: found.into(), advice: Some(advice.into()) }
}

/// Builds a check with the verdict `fail`.
pub fn fail(name: &str, found: impl Into<String>, advice: impl Into<String>) -> Check {
    Check { name: name.into(), verdict: "fail".into(), found: found.into(), advice: Some(advice.into()) }
}

pub(super) fn store_fails(error: &StoreError) -> Check {
    fail("store", error.to_string(), "follow the error; the daemon's log has the details")
}
