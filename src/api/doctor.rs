//! The doctor's report.

use serde::{Deserialize, Serialize};

/// Response to `GET /doctor` and to `POST /doctor/{accept-engine,accept-copy}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoctorReport {
    /// One entry for each check that ran.
    pub checks: Vec<Check>,
}

/// One check of the doctor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Name of the check, such as `engine`.
    pub name: String,
    /// `ok`, `warn` or `fail`.
    pub verdict: String,
    /// What the check found.
    pub found: String,
    /// What to do about it, if anything.
    pub advice: Option<String>,
}
