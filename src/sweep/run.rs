//! One run of a pass: plan, judge, apply.
//!
//! Every destructive action goes through this module, so the breaker, the approvals, the recovery hold and the limit
//! per run are implemented only once. If a plan exceeds the breaker's limit, all its actions that count against the
//! breaker are held. An operator's approval covers exactly the actions in the held plan.

use std::{collections::BTreeSet, time::Duration};

use futures_util::{StreamExt, stream};

use super::{
    context::{Snapshot, Sweeper},
    error::SweepError,
    pass::Pass,
    reservations::Reserved,
};
use crate::{
    domain::{
        breaker,
        ids::{PlanId, WorkspaceId},
        plan::{Plan, Planned},
        time::Timestamp,
    },
    ops::Applied,
    store::{HeldPlanRow, NewHeldPlan},
    testing::{
        crash_point,
        mutation::{Mutation, is},
    },
};

/// The breaker counts the workspaces that were affected within this time.
const HOUR: Duration = Duration::from_hours(1);

/// Maximum number of actions of one run that are carried out at once.
const AT_ONCE: usize = 16;

/// Reason for holding a plan while the registry is recovering.
const RECOVERING: &str = "the registry was lost or restored: nothing is started, stopped or moved to the trash \
                          automatically until you decide. `ostler adopt --dry-run` shows the differences. Either adopt \
                          the containers with `ostler adopt`, or approve this plan to carry out its actions";

/// Whether a run acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Carries the plan out.
    Apply,
    /// Only reports what it would do.
    DryRun,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything was done, up to the limits of one run.
    Done,
    /// Only planned.
    DryRun,
    /// The plan, or a part of it, waits for an operator.
    Held {
        /// The plan's id.
        plan: PlanId,
        /// The reason.
        reason: String,
    },
    /// There was no trusted listing; nothing was done.
    Untrusted(String),
    /// The run failed, for the given reason.
    Failed(String),
    /// The run exceeded its deadline.
    TimedOut,
    /// The run panicked.
    Panicked,
}

impl Outcome {
    /// The word in the API and in output.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::DryRun => "dry_run",
            Self::Held { .. } => "held",
            Self::Untrusted(_) => "untrusted",
            Self::Failed(_) => "failed",
            Self::TimedOut => "timed_out",
            Self::Panicked => "panicked",
        }
    }

    /// The reason, for outcomes that have one.
    #[must_use]
    pub fn detail(&self) -> Option<String> {
        match self {
            Self::Held { plan, reason } => Some(format!("{reason} (plan {plan})")),
            Self::Untrusted(why) | Self::Failed(why) => Some(why.clone()),
            Self::Done | Self::DryRun | Self::TimedOut | Self::Panicked => None,
        }
    }
}

/// The result of one action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not done: only planned, or left for the next run.
    Planned,
    /// Done.
    Applied(String),
    /// Not done, because its precondition no longer held.
    Raced(String),
    /// Failed; the next run tries again.
    Failed(String),
    /// Waits for the approval of an operator.
    Held,
}

/// An action and its result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActionRun {
    /// The action.
    pub planned: Planned,
    /// Its result.
    pub verdict: Verdict,
}

/// The report of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The pass.
    pub pass: &'static str,
    /// When it began.
    pub started_at: Timestamp,
    /// How long it took.
    pub took: Duration,
    /// How it ended.
    pub outcome: Outcome,
    /// The planned actions and their results.
    pub actions: Vec<ActionRun>,
    /// One line for each condition that leads to an action if it lasts.
    pub watching: Vec<String>,
    /// Number of actions left for the next run.
    pub left_over: usize,
    /// Delay after which the pass requests another run, which may be before its next scheduled one.
    pub again_after: Option<Duration>,
}

struct Judged<'a> {
    apply: Vec<Planned>,
    held: Vec<Planned>,
    hold: Option<(PlanId, String)>,
    /// Reservation of the workspaces that this run affects. The breaker counts them in the plans of other passes until
    /// the run has ended.
    reserved: Option<Reserved<'a>>,
}

impl Sweeper {
    /// Runs one pass on one snapshot.
    pub async fn run(&self, pass: &dyn Pass, snapshot: &Snapshot, mode: Mode) -> Run {
        let (started_at, began) = (self.clock.now(), self.clock.awake());
        let mut run = Run {
            pass: pass.name(),
            started_at,
            took: Duration::ZERO,
            outcome: Outcome::Done,
            actions: Vec::new(),
            watching: Vec::new(),
            left_over: 0,
            again_after: None,
        };
        if let Err(error) = self.run_into(&mut run, pass, snapshot, mode).await {
            run.outcome = match error {
                SweepError::Untrusted(why) => Outcome::Untrusted(why.to_string()),
                SweepError::Store(_) | SweepError::Op(_) | SweepError::NoListing => {
                    Outcome::Failed(error.to_string())
                }
            };
        }
        run.took = self.clock.awake().since(began);
        run
    }

    async fn run_into(
        &self,
        run: &mut Run,
        pass: &dyn Pass,
        snapshot: &Snapshot,
        mode: Mode,
    ) -> Result<(), SweepError> {
        let Plan { actions, watching, again_at } = pass.plan(self, snapshot).await?;
        run.watching = watching;
        if mode == Mode::DryRun {
            run.outcome = Outcome::DryRun;
            run.actions = as_verdicts(actions, &Verdict::Planned).collect();
            return Ok(());
        }
        let Judged { apply, held, hold, reserved: _reserved } =
            self.judge(pass.name(), actions, snapshot).await?;
        run.actions.extend(as_verdicts(held, &Verdict::Held));
        if let Some((plan, reason)) = hold {
            run.outcome = Outcome::Held { plan, reason };
        }
        self.apply_all(run, apply, snapshot).await;
        // Measured from the end of this run: it may have taken a while.
        run.again_after = again_at.map(|at| at.since(self.clock.now()));
        pass.housekeep(self, snapshot).await
    }

    /// Carries out planned actions. Actions on different workspaces run concurrently, because the actor of a workspace
    /// may have to wait for a slow container. They begin in the order of the plan.
    async fn apply_all(&self, run: &mut Run, apply: Vec<Planned>, snapshot: &Snapshot) {
        let pass = run.pass;
        let (mut destructive, mut wanted) = (0, Vec::new());
        for planned in apply {
            if planned.action.is_destructive() {
                destructive += 1;
            }
            if destructive > breaker::PER_RUN && !is(Mutation::NoCap) && planned.action.is_destructive() {
                run.left_over += 1;
                run.actions.push(ActionRun { planned, verdict: Verdict::Planned });
                continue;
            }
            wanted.push(planned);
        }
        let work: Vec<_> = wanted
            .into_iter()
            .enumerate()
            .map(|(location, one)| self.apply_one(pass, location, one, snapshot))
            .collect();
        // Not `buffered`: a slow action would then delay the actions after it.
        let mut done: Vec<_> = stream::iter(work).buffer_unordered(AT_ONCE).collect().await;
        done.sort_by_key(|(location, _)| *location);
        run.actions.extend(done.into_iter().map(|(_, done)| done));
    }

    /// Applies one action; an error ends only this action. Returns its position in the plan with its result.
    async fn apply_one(
        &self,
        pass: &'static str,
        location: usize,
        planned: Planned,
        snapshot: &Snapshot,
    ) -> (usize, ActionRun) {
        crash_point::before("sweep: apply an action");
        let verdict = match self.apply(pass, &planned, snapshot).await {
            Ok(Applied::Done(detail)) => Verdict::Applied(detail),
            Ok(Applied::Raced(why) | Applied::Accepted(why)) => Verdict::Raced(why),
            Err(error) => {
                tracing::warn!(pass, action = %planned.action.describe(), %error, "sweep action failed");
                Verdict::Failed(error.to_string())
            }
        };
        crash_point::after("sweep: apply an action");
        (location, ActionRun { planned, verdict })
    }

    async fn judge(
        &self,
        pass: &'static str,
        actions: Vec<Planned>,
        snapshot: &Snapshot,
    ) -> Result<Judged<'_>, SweepError> {
        let before = self.store.held_plan(pass).await?;
        let approved = approved_keys(before.as_ref());
        let is_approved = |planned: &Planned| approved.contains(&planned.action.key());
        let waits = |planned: &Planned| planned.action.waits_for_recovery() && !is_approved(planned);
        if actions.iter().any(waits) && self.is_recovering().await? && !is(Mutation::ActWhileRecovering) {
            let (waiting, apply): (Vec<_>, Vec<_>) = actions.into_iter().partition(waits);
            let reason = RECOVERING.to_owned();
            let id = match before {
                Some(row) if row.approved_at.is_some() && apply.iter().any(is_approved) => row.id,
                before => self.hold(pass, before, &waiting, &reason).await?,
            };
            return Ok(Judged { apply, held: waiting, hold: Some((id, reason)), reserved: None });
        }
        let counted = actions.iter().filter(|planned| planned.action.counts_against_breaker());
        let (reserved, mut beside) =
            self.reservations.reserve(counted.map(|planned| planned.action.workspace()).collect());
        // A restart may begin after the run that ordered it has ended, and its event is written only when it begins.
        // This set is read before the events, so that a restart whose event is written between the two reads is in the
        // set.
        beside.extend(self.ops.restarting_degraded());
        let hold = self.reason_to_hold(&actions, snapshot, beside, &is_approved).await?;
        let Some(reason) = hold else {
            self.drop_used_up(pass, before, &actions).await?;
            return Ok(Judged { apply: actions, held: Vec::new(), hold: None, reserved: Some(reserved) });
        };
        let any_approved = actions.iter().any(is_approved);
        // Only actions that count against the breaker wait. Other actions continue, such as stops that rows require
        // and moves to the trash that have begun.
        let (apply, waiting): (Vec<_>, Vec<_>) = actions
            .into_iter()
            .partition(|planned| is_approved(planned) || !planned.action.counts_against_breaker());
        let id = match before {
            // A pass has at most one held plan. An approved plan is not replaced until all of its actions are done;
            // otherwise an operator would have to approve the rest again.
            Some(row) if any_approved => row.id,
            before => self.hold(pass, before, &waiting, &reason).await?,
        };
        Ok(Judged { apply, held: waiting, hold: Some((id, reason)), reserved: None })
    }

    async fn reason_to_hold(
        &self,
        actions: &[Planned],
        snapshot: &Snapshot,
        beside: BTreeSet<WorkspaceId>,
        approved: &(dyn Fn(&Planned) -> bool + Sync),
    ) -> Result<Option<String>, SweepError> {
        let counted = actions.iter().filter(|planned| planned.action.counts_against_breaker());
        if counted.filter(|planned| !approved(planned)).count() == 0 {
            return Ok(None);
        }
        let mut recent = self.store.swept_since(self.clock.now() - HOUR).await?;
        recent.extend(beside);
        let known = self.store.live_count().await? + self.count_unknown(snapshot).await?;
        Ok(match breaker::judge(actions, &recent, known, approved) {
            breaker::Verdict::Clear => None,
            breaker::Verdict::Hold { reason } => Some(reason),
        })
    }

    async fn count_unknown(&self, snapshot: &Snapshot) -> Result<usize, SweepError> {
        // Without a listing, no unknown workspaces are counted. The breaker's limit is then lower.
        let Ok(seen) = snapshot.seen() else { return Ok(0) };
        let listed = seen.inventory.workspaces();
        let count = listed.len();
        Ok(count.saturating_sub(self.store.known_count(listed).await?))
    }

    /// Holds a plan, unless a plan with the same actions is held already and not approved.
    async fn hold(
        &self,
        pass: &'static str,
        before: Option<HeldPlanRow>,
        held: &[Planned],
        reason: &str,
    ) -> Result<PlanId, SweepError> {
        let keys =
            |plan: &[Planned]| plan.iter().map(|planned| planned.action.key()).collect::<BTreeSet<_>>();
        if let Some(row) = &before
            && row.approved_at.is_none()
            && planned_of(row).is_some_and(|plan| keys(&plan) == keys(held))
        {
            return Ok(row.id);
        }
        let id = PlanId(self.entropy.uuid());
        let plan = serde_json::to_value(held).unwrap_or_default();
        let new = NewHeldPlan { id, pass, reason: reason.to_owned(), plan };
        self.store.hold_plan(new, self.clock.now()).await?;
        tracing::warn!(pass, plan = %id, reason, "sweep plan is held; see `ostler sweep show {pass}`");
        Ok(id)
    }

    /// Drops a held plan whose cause has disappeared, or an approved plan whose actions are all done.
    async fn drop_used_up(
        &self,
        pass: &'static str,
        before: Option<HeldPlanRow>,
        actions: &[Planned],
    ) -> Result<(), SweepError> {
        let Some(row) = before else { return Ok(()) };
        let still_wanted = approved_keys(Some(&row));
        if row.approved_at.is_none()
            || !actions.iter().any(|planned| still_wanted.contains(&planned.action.key()))
        {
            self.store.drop_held_plan(pass, row.id).await?;
        }
        Ok(())
    }
}

/// The actions of a held plan. `None` if this version cannot read it: it then approves nothing.
pub(super) fn planned_of(row: &HeldPlanRow) -> Option<Vec<Planned>> {
    serde_json::from_value(row.plan.clone()).ok()
}

fn approved_keys(row: Option<&HeldPlanRow>) -> BTreeSet<String> {
    let approved = row.filter(|row| row.approved_at.is_some()).and_then(planned_of).unwrap_or_default();
    approved.iter().map(|planned| planned.action.key()).collect()
}

fn as_verdicts(actions: Vec<Planned>, verdict: &Verdict) -> impl Iterator<Item = ActionRun> {
    actions.into_iter().map(|planned| ActionRun { planned, verdict: verdict.clone() })
}
