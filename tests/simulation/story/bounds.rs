//! Limits on growth caused by agents, and confusion of names with ids. Checked at the end of a run, without other
//! activity.

use ostler::{
    domain::{
        beat::Beat, bounds::AGENT_EVENTS_BURST, event::EventKind, ids::WorkspaceId, status::Status,
        token::TokenKind, workspace::Kind,
    },
    store::{Bearer, Found, Holder, Scope},
    sweep::Mode,
};
use serde_json::json;

use super::{
    super::{
        house::{EVENT_RETENTION, at_once, pass_named, well},
        invariants::{Broken, Rule},
    },
    Story,
};

/// Number of the agent's recoveries; more than its allowance of events.
const RECOVERIES: i64 = AGENT_EVENTS_BURST + 10;

impl Story {
    pub(super) fn growth_is_bounded(&mut self) -> Result<(), Broken> {
        self.a_flapping_agent_is_told_of_rarely()?;
        self.old_events_are_forgotten()?;
        self.ids_are_no_names()
    }

    /// Token owner whose heartbeats change the status of its workspace.
    fn speaker(&self) -> Option<Holder> {
        let tokens = self.book().tokens.clone();
        tokens.iter().find_map(|token| {
            let bearer = self.house.eye.bearer(&token.digest(), self.house.sim.now())?;
            let Bearer::Workspace(holder) = bearer else { return None };
            let row = self.house.row(holder.workspace);
            let proves = holder.kind == TokenKind::Instance || row.kind == Kind::External;
            (proves && matches!(row.status, Status::Online | Status::Degraded)).then_some(holder)
        })
    }

    fn a_flapping_agent_is_told_of_rarely(&mut self) -> Result<(), Broken> {
        let Some(holder) = self.speaker() else { return Ok(()) };
        let now = self.house.sim.now();
        let newest = || at_once(self.house.eye.newest_sequence()).expect("the store answers");
        let before = newest();
        for _ in 0..RECOVERIES {
            for beat in [Beat { error_rate: 1.0, ..well() }, well()] {
                at_once(self.house.eye.note_beat(holder, beat, now)).expect("the store answers");
            }
        }
        let told = newest() - before;
        self.witness.coverage.count(Rule::HistoryIsBounded, 1);
        if told > 2 * (AGENT_EVENTS_BURST + 1) {
            let how = format!("{told} events tell of an agent that recovered {RECOVERIES} times");
            return Err(Rule::HistoryIsBounded.broken(how));
        }
        Ok(())
    }

    fn old_events_are_forgotten(&mut self) -> Result<(), Broken> {
        let sweeper = self.house.daemon.sweeper.clone();
        let oldest = self.house.sim.now() - EVENT_RETENTION;
        let before = oldest - std::time::Duration::from_secs(1);
        let newest = at_once(self.house.eye.newest_sequence()).expect("the store answers");
        at_once(self.house.eye.tell(before, EventKind::EngineAccepted, None, json!({}), None))
            .expect("the store answers");
        self.house.sim.calmly(async move {
            let (pass, look) = (pass_named("forget_history"), sweeper.glance());
            drop(sweeper.run(&*pass, &look, Mode::Apply).await);
        });
        let events = at_once(self.house.eye.events_after(newest, 1_000)).expect("the store answers");
        self.witness.coverage.count(Rule::HistoryIsBounded, events.len());
        match events.iter().find(|event| event.created_at < oldest) {
            Some(old) => {
                Err(Rule::HistoryIsBounded.broken(format!("an event of {} is kept", old.created_at)))
            }
            None => Ok(()),
        }
    }

    /// Commands addressed by an id never reach a workspace that has that id as its name.
    fn ids_are_no_names(&mut self) -> Result<(), Broken> {
        let rows = self.house.rows();
        let live: Vec<WorkspaceId> =
            rows.iter().filter(|row| row.status != Status::Removed).map(|row| row.id).collect();
        let [one, .., other] = live[..] else { return Ok(()) };
        let body = json!({ "name": one.to_string() });
        let path = format!("/workspaces/{other}");
        let _answer = self.house.sim.calmly(self.house.as_person("PATCH", &path, Some(body)));
        let found = at_once(self.house.eye.find_workspace(one.to_string(), Scope::Live));
        self.witness.coverage.count(Rule::IdsAreNoNames, 1);
        match found.expect("the store answers") {
            Found::One(row) if row.id == one => Ok(()),
            found @ (Found::One(_) | Found::Many(_) | Found::None(_)) => {
                Err(Rule::IdsAreNoNames.broken(format!("{one} leads to {found:?}")))
            }
        }
    }
}
