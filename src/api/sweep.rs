//! A pass, its runs, and the plans that wait for approval.

use serde::{Deserialize, Serialize};

/// A pass in `GET /sweeps`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassView {
    /// Name of the pass, such as `settle`.
    pub name: String,
    /// One-line description.
    pub summary: String,
    /// Interval between runs, in seconds.
    pub period_seconds: u64,
    /// Whether the pass is running now.
    pub running: bool,
    /// The last run; null if there was none.
    pub last: Option<PassRun>,
    /// The plan that waits for approval; null if there is none.
    pub held: Option<HeldPlan>,
}

/// One run of a pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassRun {
    /// Name of the pass.
    pub pass: String,
    /// Start time, RFC 3339.
    pub started_at: String,
    /// Duration in milliseconds.
    pub took_ms: u64,
    /// `done`, `dry_run`, `held`, `untrusted` (the engine returned no trusted listing), `failed`, `timed_out` or
    /// `panicked`.
    pub outcome: String,
    /// Reason for the outcome, if there is one.
    pub detail: Option<String>,
    /// The planned actions, each with its result.
    pub actions: Vec<ActionView>,
    /// Findings that become actions if they persist.
    pub watching: Vec<String>,
    /// Number of actions left for the next run.
    pub left_over: usize,
}

/// One planned action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActionView {
    /// The action and its target, such as `put container 6f1c0c5e0d0f into the trash`.
    pub action: String,
    /// Name or id of the workspace.
    pub workspace: String,
    /// The evidence on which the action was decided.
    pub evidence: String,
    /// `planned`, `applied`, `raced` (not applied, because the row has changed since the plan), `failed`, `held`.
    pub result: String,
    /// Reason for the result, if there is one.
    pub detail: Option<String>,
}

/// A plan that the circuit breaker held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldPlan {
    /// Id of the plan; the argument of `ostler sweep approve`.
    pub id: String,
    /// Name of the pass.
    pub pass: String,
    /// Why the plan was held.
    pub reason: String,
    /// Time at which it was held, RFC 3339.
    pub held_at: String,
    /// The actions that are applied after an approval. An approval allows no other actions.
    pub actions: Vec<ActionView>,
}

/// `POST /sweeps/run`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunSweeps {
    /// Names of the passes; empty selects all.
    pub passes: Vec<String>,
    /// Report the planned actions without applying them.
    pub dry_run: bool,
}

/// `POST /sweeps/:pass/approve`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApprovePlan {
    /// Id or unique id prefix of the plan.
    pub plan_id: String,
}
