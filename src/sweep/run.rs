//! One run of a pass: plan, judge, apply.
//!
//! Everything that could take something away goes through here, so the breaker, the approvals, the
//! recovery hold and the cap per run are written once. A plan above the limit is held whole; what a person
//! has approved is exactly what was listed, and nothing more.

use std::{collections::BTreeSet, time::Duration};

use futures_util::{StreamExt, stream};

use super::{Look, Pass, SweepError, Sweeper, hits::Reserved};
use crate::{
    crash_point,
    domain::{
        breaker,
        ids::{PlanId, WorkspaceId},
        plan::{Plan, Planned},
        time::Timestamp,
    },
    mutation::{Mutation, is},
    ops::Applied,
    store::{HeldPlanRow, NewHeldPlan},
};

/// The breaker's window.
const HOUR: Duration = Duration::from_hours(1);

/// How many actions of one run are carried out at once.
const AT_ONCE: usize = 16;

/// Why a plan is held while the registry is recovering.
const RECOVERING: &str = "the registry was lost or restored, so nothing is started, stopped or reaped by itself until you \
                          have decided: `ostler adopt --dry-run` shows what differs and `ostler adopt` takes it over; \
                          approving this plan carries it out";

/// Whether a run acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It does.
    Apply,
    /// It only says what it would do.
    DryRun,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All of it was done, as far as one run goes.
    Done,
    /// Only planned.
    DryRun,
    /// The plan, or a part of it, waits for a person.
    Held {
        /// The plan's id.
        plan: PlanId,
        /// Why.
        reason: String,
    },
    /// There was no listing to act on; nothing was done.
    Untrusted(String),
    /// It failed.
    Failed(String),
    /// It took longer than it may.
    TimedOut,
    /// It panicked.
    Panicked,
}

impl Outcome {
    /// The word shown.
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

    /// Why, where there is something to say.
    #[must_use]
    pub fn detail(&self) -> Option<String> {
        match self {
            Self::Held { plan, reason } => Some(format!("{reason} (plan {plan})")),
            Self::Untrusted(why) | Self::Failed(why) => Some(why.clone()),
            Self::Done | Self::DryRun | Self::TimedOut | Self::Panicked => None,
        }
    }
}

/// What came of one action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not done: only planned, or left for the next run.
    Planned,
    /// Done.
    Applied(String),
    /// What it was decided on no longer held.
    Raced(String),
    /// It failed; the next run tries again.
    Failed(String),
    /// It waits for a person.
    Held,
}

/// An action and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActionRun {
    /// The action.
    pub planned: Planned,
    /// What came of it.
    pub verdict: Verdict,
}

/// One run.
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
    /// What it planned, and what came of each.
    pub actions: Vec<ActionRun>,
    /// What it keeps an eye on.
    pub watching: Vec<String>,
    /// How many actions were left for the next run.
    pub left_over: usize,
    /// After how long the pass wants to run again, if that is before its turn.
    pub again_after: Option<Duration>,
}

struct Judged<'a> {
    apply: Vec<Planned>,
    held: Vec<Planned>,
    hold: Option<(PlanId, String)>,
    /// What this run is about to hit, for the passes beside it, until it has ended.
    reserved: Option<Reserved<'a>>,
}

impl Sweeper {
    /// Runs one pass on one look.
    pub async fn run(&self, pass: &dyn Pass, look: &Look, mode: Mode) -> Run {
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
        if let Err(error) = self.run_into(&mut run, pass, look, mode).await {
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
        look: &Look,
        mode: Mode,
    ) -> Result<(), SweepError> {
        let Plan { actions, watching, again_at } = pass.plan(self, look).await?;
        run.watching = watching;
        if mode == Mode::DryRun {
            run.outcome = Outcome::DryRun;
            run.actions = as_verdicts(actions, &Verdict::Planned).collect();
            return Ok(());
        }
        let Judged { apply, held, hold, reserved: _reserved } =
            self.judge(pass.name(), actions, look).await?;
        run.actions.extend(as_verdicts(held, &Verdict::Held));
        if let Some((plan, reason)) = hold {
            run.outcome = Outcome::Held { plan, reason };
        }
        self.apply_all(run, apply, look).await;
        // Measured from the end of this run: it may have taken a while.
        run.again_after = again_at.map(|at| at.since(self.clock.now()));
        pass.housekeep(self, look).await
    }

    /// Carries planned actions out. Those of different workspaces do not wait for each other: each is an order to the
    /// actor of its workspace, which may have to wait for a slow container. They are submitted in the plan's order.
    async fn apply_all(&self, run: &mut Run, apply: Vec<Planned>, look: &Look) {
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
            .map(|(place, one)| self.apply_one(pass, place, one, look))
            .collect();
        // Not in the plan's order, so that a slow one is not waited for by those behind it.
        let mut done: Vec<_> = stream::iter(work).buffer_unordered(AT_ONCE).collect().await;
        done.sort_by_key(|(place, _)| *place);
        run.actions.extend(done.into_iter().map(|(_, done)| done));
    }

    /// One bad item never stops a sweep. Answers its place in the plan with it.
    async fn apply_one(
        &self,
        pass: &'static str,
        place: usize,
        planned: Planned,
        look: &Look,
    ) -> (usize, ActionRun) {
        crash_point::before("sweep: apply an action");
        let verdict = match self.apply(pass, &planned, look).await {
            Ok(Applied::Done(said)) => Verdict::Applied(said),
            Ok(Applied::Raced(why)) => Verdict::Raced(why),
            Err(error) => {
                tracing::warn!(pass, action = %planned.action.describe(), %error, "a sweep's action failed");
                Verdict::Failed(error.to_string())
            }
        };
        crash_point::after("sweep: apply an action");
        (place, ActionRun { planned, verdict })
    }

    async fn judge(
        &self,
        pass: &'static str,
        actions: Vec<Planned>,
        look: &Look,
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
            self.hits.reserve(counted.map(|planned| planned.action.workspace()).collect());
        // A restart outlasts the run that ordered it, and its event is written only when it begins. Read before the events:
        // a restart whose event is written in between is still in this set.
        beside.extend(self.ops.restarting_unwell());
        let hold = self.reason_to_hold(&actions, look, beside, &is_approved).await?;
        let Some(reason) = hold else {
            self.drop_used_up(pass, before, &actions).await?;
            return Ok(Judged { apply: actions, held: Vec::new(), hold: None, reserved: Some(reserved) });
        };
        let any_approved = actions.iter().any(is_approved);
        // Only what could hurt somebody's work waits: stops that rows demand and claims that were begun go on.
        let (apply, waiting): (Vec<_>, Vec<_>) = actions
            .into_iter()
            .partition(|planned| is_approved(planned) || !planned.action.counts_against_breaker());
        let id = match before {
            // A pass holds one plan. An approved one stays until all of it is done: it would have to be
            // approved twice.
            Some(row) if any_approved => row.id,
            before => self.hold(pass, before, &waiting, &reason).await?,
        };
        Ok(Judged { apply, held: waiting, hold: Some((id, reason)), reserved: None })
    }

    async fn reason_to_hold(
        &self,
        actions: &[Planned],
        look: &Look,
        beside: BTreeSet<WorkspaceId>,
        approved: &(dyn Fn(&Planned) -> bool + Sync),
    ) -> Result<Option<String>, SweepError> {
        let counted = actions.iter().filter(|planned| planned.action.counts_against_breaker());
        if counted.filter(|planned| !approved(planned)).count() == 0 {
            return Ok(None);
        }
        let mut recent = self.store.swept_since(self.clock.now() - HOUR).await?;
        recent.extend(beside);
        let known = self.store.live_count().await? + self.count_unknown(look).await?;
        Ok(match breaker::judge(actions, &recent, known, approved) {
            breaker::Verdict::Clear => None,
            breaker::Verdict::Hold { reason } => Some(reason),
        })
    }

    async fn count_unknown(&self, look: &Look) -> Result<usize, SweepError> {
        // A pass without a listing sees nothing unknown, and is held to the stricter limit.
        let Ok(seen) = look.seen() else { return Ok(0) };
        let listed = seen.inventory.workspaces();
        let count = listed.len();
        Ok(count.saturating_sub(self.store.known_count(listed).await?))
    }

    /// Holds a plan, unless the very same one is held already.
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
        tracing::warn!(pass, plan = %id, reason, "a sweep's plan is held: `ostler sweep show {pass}`");
        Ok(id)
    }

    /// A held plan whose cause is gone, or an approved one with nothing left to do, is dropped.
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

/// What a held plan holds. One that this version cannot read approves nothing.
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
