//! Checks at the end of a run, without other activity: agents cannot make stored data grow without limit, and a name is
//! never taken for an id.

use ostler::{
    domain::{
        bounds::AGENT_EVENTS_BURST, event::EventKind, heartbeat::Heartbeat, ids::WorkspaceId, status::Status,
        token::TokenKind, workspace::Kind,
    },
    store::{Found, Scope, TokenOwner, TokenSubject},
    sweep::Mode,
};
use serde_json::json;

use super::{
    super::{
        installation::{EVENT_RETENTION, healthy, now_or_panic, pass_named},
        invariants::{Broken, Rule},
    },
    Scenario,
};

/// Number of the agent's recoveries; more than its allowance of events.
const RECOVERIES: i64 = AGENT_EVENTS_BURST + 10;

impl Scenario {
    pub(super) fn growth_is_bounded(&mut self) -> Result<(), Broken> {
        self.a_flapping_agent_emits_few_events()?;
        self.old_events_are_forgotten()?;
        self.ids_are_no_names()
    }

    /// Token owner whose heartbeats change the status of its workspace.
    fn reporter(&self) -> Option<TokenOwner> {
        let tokens = self.book().tokens.clone();
        tokens.iter().find_map(|token| {
            let token_subject = self.site.reader.token_subject(&token.digest(), self.site.sim.now())?;
            let TokenSubject::Workspace(token_owner) = token_subject else { return None };
            let row = self.site.row(token_owner.workspace);
            let proves = token_owner.kind == TokenKind::Instance || row.kind == Kind::External;
            (proves && matches!(row.status, Status::Online | Status::Degraded)).then_some(token_owner)
        })
    }

    fn a_flapping_agent_emits_few_events(&mut self) -> Result<(), Broken> {
        let Some(token_owner) = self.reporter() else { return Ok(()) };
        let now = self.site.sim.now();
        let newest = || now_or_panic(self.site.reader.newest_sequence()).expect("the store answers");
        let before = newest();
        for _ in 0..RECOVERIES {
            for heartbeat in [Heartbeat { error_rate: 1.0, ..healthy() }, healthy()] {
                now_or_panic(self.site.reader.record_heartbeat(token_owner, heartbeat, now))
                    .expect("the store answers");
            }
        }
        let emitted = newest() - before;
        self.witness.coverage.count(Rule::HistoryIsBounded, 1);
        if emitted > 2 * (AGENT_EVENTS_BURST + 1) {
            let how = format!("an agent that recovered {RECOVERIES} times caused {emitted} events");
            return Err(Rule::HistoryIsBounded.broken(how));
        }
        Ok(())
    }

    fn old_events_are_forgotten(&mut self) -> Result<(), Broken> {
        let sweeper = self.site.daemon.app.sweeper.clone();
        let oldest = self.site.sim.now() - EVENT_RETENTION;
        let before = oldest - std::time::Duration::from_secs(1);
        let newest = now_or_panic(self.site.reader.newest_sequence()).expect("the store answers");
        now_or_panic(self.site.reader.emit(before, EventKind::EngineAccepted, None, json!({}), None))
            .expect("the store answers");
        self.site.sim.calmly(async move {
            let (pass, snapshot) = (pass_named("forget_history"), sweeper.clock_snapshot());
            drop(sweeper.run(&*pass, &snapshot, Mode::Apply).await);
        });
        let events = now_or_panic(self.site.reader.events_after(newest, 1_000)).expect("the store answers");
        self.witness.coverage.count(Rule::HistoryIsBounded, events.len());
        match events.iter().find(|event| event.created_at < oldest) {
            Some(old) => {
                Err(Rule::HistoryIsBounded.broken(format!("an event of {} was not deleted", old.created_at)))
            }
            None => Ok(()),
        }
    }

    /// Commands addressed by an id never reach a workspace that has that id as its name.
    fn ids_are_no_names(&mut self) -> Result<(), Broken> {
        let rows = self.site.rows();
        let live: Vec<WorkspaceId> =
            rows.iter().filter(|row| row.status != Status::Removed).map(|row| row.id).collect();
        let [one, .., other] = live[..] else { return Ok(()) };
        let body = json!({ "name": one.to_string() });
        let path = format!("/workspaces/{other}");
        let _answer = self.site.sim.calmly(self.site.as_operator("PATCH", &path, Some(body)));
        let found = now_or_panic(self.site.reader.find_workspace(one.to_string(), Scope::Live));
        self.witness.coverage.count(Rule::IdsAreNoNames, 1);
        match found.expect("the store answers") {
            Found::One(row) if row.id == one => Ok(()),
            found @ (Found::One(_) | Found::Many(_) | Found::None(_)) => {
                Err(Rule::IdsAreNoNames.broken(format!("{one} addresses {found:?}")))
            }
        }
    }
}
