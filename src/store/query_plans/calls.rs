//! Calls of every method of the store, with sample arguments.

use futures_util::FutureExt;
use serde_json::json;
use uuid::Uuid;

use crate::{
    domain::{
        activity::ActivityQuery,
        delegation::DelegationStatus,
        event::{Event, EventKind},
        heartbeat::{Fields, Heartbeat},
        ids::{
            ActivityId, ContainerId, DelegationId, InstanceId, MemoryId, PlanId, TokenId, TrashId,
            WorkspaceId,
        },
        operation::{Command, OperationId, OperationState, Requester, Revision},
        spec::{SpecPatch, WorkspaceSpec},
        status::Cause,
        time::Timestamp,
        token::TokenDigest,
        trash::{NamedContainer, TrashContents, TrashReason},
        workspace::{Delivery, Kind},
    },
    store::{
        ActivityPage, AdoptedContainer, AdoptedWorkspace, Attempt, BeginStart, ClaimGuard, ContainerAdoption,
        ContainerEnd, Delegated, DeleteGuard, GoneResult, HibernateReason, HostReach, Memory, MemoryQuery,
        NewActivity, NewApiToken, NewClaim, NewDelegation, NewHeldPlan, NewWorkspace, PatchResult,
        PauseResult, PortRange, Precondition, Queued, Registration, Registry, Scope, StaleTokens,
        StatusChange, Store, StoreResult, Summary, TokenIssue, TokenOwner, TokenSubject, WorkspaceEdit,
        WorkspacePatch,
    },
};

fn at_once<T>(answer: impl Future<Output = StoreResult<T>>) -> T {
    answer.now_or_never().expect("the store answers without waiting").expect("the statement succeeds")
}

const NOW: Timestamp = Timestamp(1_700_000_000_000);

fn id(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

fn container(number: u8) -> ContainerId {
    format!("{number:064x}").try_into().unwrap()
}

fn token(number: u8) -> TokenIssue {
    TokenIssue { id: TokenId(id(number.into())), digest: TokenDigest([number; 32]), prefix: "prefix".into() }
}

fn workspace(number: u128, parent: Option<u128>) -> NewWorkspace {
    NewWorkspace {
        id: WorkspaceId(id(number)),
        name: format!("w{number}").parse().unwrap(),
        kind: Kind::Container,
        delivery: Delivery::Push,
        spec: WorkspaceSpec {
            runtime: "plain".into(),
            parent: parent.map(|parent| WorkspaceId(id(parent))),
            ..WorkspaceSpec::default()
        },
        token: Some(token(u8::try_from(number).unwrap())),
    }
}

fn begin(number: u128, token: TokenIssue) -> BeginStart {
    BeginStart {
        workspace: WorkspaceId(id(number)),
        cause: Cause::StartByOperator,
        container: container(1),
        spec_hash: String::new(),
        token,
        decided_on: Some(Revision(0)),
        operation: Some(OperationId(1)),
        replaces: None,
        degraded: None,
        at: NOW,
    }
}

fn claim(number: u128, workspace: u128, reason: TrashReason, guard: ClaimGuard) -> NewClaim {
    let container =
        Some(NamedContainer { id: container(u8::try_from(number).unwrap()), name: "name".into() });
    NewClaim {
        id: TrashId(id(number)),
        workspace: WorkspaceId(id(workspace)),
        workspace_name: "w".into(),
        reason,
        evidence: String::new(),
        contents: TrashContents { container, volumes: vec![format!("volume-{number}")] },
        guard,
        keep_until: NOW,
        swept_by: Some("pass"),
    }
}

pub(super) fn drive_workspaces(store: &Store) {
    at_once(store.found_registry(Registry {
        instance: InstanceId(id(1)),
        generation: 0,
        recovering_since: None,
        engine_accepted_at: None,
    }));
    at_once(store.registry());
    at_once(store.begin_recovery(NOW, 1, String::new()));
    at_once(store.end_recovery(NOW, String::new()));
    at_once(store.accept_engine(NOW, String::new()));
    let gateways = [std::net::IpAddr::from([10, 89, 0, 1])].into();
    at_once(store.keep_host_reach(HostReach { rootless: false, gateways }));
    at_once(store.host_reach());
    at_once(store.become_instance(InstanceId(id(2)), NOW));
    for (number, parent) in [(1, None), (2, Some(1)), (3, Some(2)), (4, None)] {
        at_once(store.create_workspace(workspace(number, parent), NOW));
    }
    let first = WorkspaceId(id(1));
    at_once(store.workspace(first));
    for scope in [Scope::Live, Scope::Removed, Scope::Any] {
        for reference in ["w1", "0000", "nothing"] {
            at_once(store.find_workspace(reference.into(), scope));
        }
        at_once(store.workspaces(scope));
    }
    at_once(store.allot(first, PortRange::default(), vec![]));
    at_once(store.edit_workspace(
        first,
        WorkspaceEdit {
            has_work_volume: Some(true),
            config_written: Some(String::new()),
            host_port: Some(1),
        },
    ));
    drive_operations(store, first);
    at_once(store.begin_start(begin(1, token(11)))).expect("start begun");
    at_once(store.begin_start(begin(4, token(12)))).expect("start begun");
    let change = StatusChange {
        workspace: first,
        cause: Cause::ContainerReady,
        incarnation: None,
        detail: None,
        payload: json!({}),
        at: NOW,
    };
    assert!(at_once(store.change_status(change)));
    at_once(store.adopt_workspace(adopted(5), NOW)).expect("adopted");
    at_once(store.create_workspace(workspace(6, None), NOW));
    at_once(store.create_workspace(workspace(7, None), NOW));
    let newer = AdoptedContainer {
        workspace: WorkspaceId(id(7)),
        incarnation: crate::domain::ids::Incarnation(0),
        container: container(9),
        serial: 2,
        host_port: None,
        running: true,
        spec_hash: None,
        token: Some(token(77)),
        evidence: String::new(),
    };
    at_once(store.begin_recovery(NOW, 0, String::new()));
    let adopted = at_once(store.adopt_container(newer, NOW));
    assert!(matches!(adopted, ContainerAdoption::Adopted { .. }), "{adopted:?}");
    at_once(store.end_recovery(NOW, String::new()));
}

fn adopted(number: u128) -> AdoptedWorkspace {
    AdoptedWorkspace {
        id: WorkspaceId(id(number)),
        name: format!("w{number}").parse().unwrap(),
        spec: WorkspaceSpec { runtime: "plain".into(), ..WorkspaceSpec::default() },
        container: None,
        serial: 1,
        host_port: None,
        has_work_volume: false,
        running: false,
        spec_hash: None,
        token: Some(token(15)),
        evidence: String::new(),
    }
}

pub(super) fn drive_tokens(store: &Store) {
    let first = WorkspaceId(id(1));
    at_once(store.removed_token_owner(TokenDigest([11; 32])));
    at_once(store.invalid_token(TokenDigest([11; 32])));
    at_once(store.live_tokens(first, NOW));
    at_once(store.note_token_use(token_owner(store, 11), NOW));
    at_once(store.take_token_over(first, crate::domain::ids::Incarnation(1), token(16), NOW));
    at_once(store.issue_api_token(first, NewApiToken { token: token(13), expires_at: None }, 9, NOW));
    at_once(store.note_token_use(token_owner(store, 13), NOW));
    at_once(store.revoke_token(first, TokenId(id(13)), NOW));
    at_once(store.issue_admin_token(token(31), "name".into(), None, NOW));
    at_once(store.admin_tokens());
    at_once(store.revoke_admin_token(TokenId(id(31)), NOW));
    assert!(at_once(store.memory_is_true()));
}

fn token_owner(store: &Store, number: u8) -> TokenOwner {
    match store.token_subject(&TokenDigest([number; 32]), NOW) {
        Some(TokenSubject::Workspace(token_owner)) => token_owner,
        other => panic!("token {number} is {other:?}"),
    }
}

fn row(number: u128) -> NewActivity {
    NewActivity {
        id: ActivityId(id(number)),
        workspace: WorkspaceId(id(1)),
        activity_type: crate::domain::activity::RECEIVED,
        source: None,
        target: None,
        method: None,
        summary: Summary::Text(None),
        status: "ok".into(),
        error_detail: None,
        duration_ms: None,
        request_body: None,
        response_body: None,
        at: NOW,
    }
}

fn drive_activity(store: &Store) {
    let first = WorkspaceId(id(1));
    at_once(store.log_activity(vec![row(1)]));
    assert_eq!(at_once(store.queue_message(row(2))), Queued::Stored);
    let after = ActivityQuery { after: Some(ActivityId(id(1))), ..ActivityQuery::default() };
    let poll = ActivityQuery { is_poll: true, limit: 1, ..ActivityQuery::default() };
    for query in [ActivityQuery::default(), poll, after] {
        assert!(matches!(at_once(store.activity(first, query)), ActivityPage::Rows(_)));
    }
    at_once(store.note_notice(row(3), json!({})));
    let delegation = NewDelegation {
        id: DelegationId(id(1)),
        workspace: first,
        target: WorkspaceId(id(2)),
        key: Some("key".into()),
        task: "task".into(),
        sent_by_ostler: true,
        at: NOW,
    };
    assert_eq!(at_once(store.begin_delegation(delegation.clone())), Delegated::New);
    let waiting = at_once(store.take_up_delegations(NOW)).pop().expect("one is waiting");
    assert!(at_once(store.dispatch_delegation(waiting, Attempt::First, NOW)).is_some());
    at_once(store.move_delegation(first, delegation.id, DelegationStatus::Failed, (None, None), NOW));
    at_once(store.begin_delegation(NewDelegation { id: DelegationId(id(2)), ..delegation.clone() }));
    let recorded = NewDelegation { id: DelegationId(id(3)), key: None, sent_by_ostler: false, ..delegation };
    at_once(store.begin_delegation(recorded.clone()));
    at_once(store.move_delegation(first, recorded.id, DelegationStatus::Failed, (None, None), NOW));
    assert_eq!(
        at_once(store.begin_delegation(recorded)),
        Delegated::New,
        "a failed delegation does not block a new one"
    );
    assert_eq!(at_once(store.delegations(first, NOW + crate::domain::delegation::DEADLINE * 2)).len(), 3);
    let memory = Memory {
        id: MemoryId(id(1)),
        workspace: first,
        content: "content".into(),
        scope: crate::domain::memory::Scope::Team,
        namespace: "n".into(),
        created_at: NOW,
    };
    at_once(store.remember(memory));
    for scope in crate::domain::memory::Scope::ALL.map(Some).into_iter().chain([None]) {
        at_once(store.memories(first, MemoryQuery { scope, limit: 1, ..MemoryQuery::default() }));
    }
    at_once(store.forget_memory(first, MemoryId(id(1))));
    let polled = ActivityQuery { after: Some(ActivityId(id(2))), ..ActivityQuery::default() };
    let waiting = at_once(store.waiting_up_to(first, polled.clone())).expect("one is waiting");
    assert!(at_once(store.note_polled(first, waiting, polled)));
}

/// Calls the methods for agents' reports, and the methods that read or change data from these reports.
pub(super) fn drive_agents(store: &Store) {
    let first = WorkspaceId(id(1));
    let speaks = token_owner(store, 16);
    let heartbeat = Heartbeat {
        error_rate: 0.9,
        current_task: "sorting".into(),
        uptime_seconds: 1,
        metadata: Some(crate::domain::heartbeat::Metadata { json: "{}".into(), manages_status: false }),
        ..Heartbeat::default()
    };
    at_once(store.record_heartbeat(speaks, heartbeat, NOW));
    at_once(store.note_refused_requests(speaks.workspace, "heartbeat", "why", NOW));
    at_once(store.record_registration(
        speaks,
        Registration {
            url: None,
            delivery: Some(Delivery::Push),
            card: Some(json!({})),
            refused: Fields::default(),
        },
        NOW,
    ));
    at_once(store.note_card(speaks, json!({ "name": "one" }), NOW));
    drive_activity(store);
    at_once(store.describe(first));
    at_once(store.describe_all(Scope::Live));
    for of in [1, 2, 4] {
        at_once(store.peers(WorkspaceId(id(of)), true));
    }
    at_once(store.note_activity_at(vec![(first, NOW)]));
    at_once(store.quiet_rows(NOW, NOW));
    at_once(store.idle_rows(NOW));
    at_once(store.hibernation_candidates());
    at_once(store.flag_wedged(first, NOW, String::new(), NOW));
    let budget = crate::domain::budget::RestartBudget::default();
    let silent = Precondition::HeartbeatSince(Timestamp(NOW.0 + 1));
    if let Some(claimed) = at_once(store.charge_degraded_restart(first, silent, budget, NOW)) {
        at_once(store.refund_restart(claimed));
    }
    let change = |cause| StatusChange {
        workspace: first,
        cause,
        incarnation: None,
        detail: None,
        payload: json!({}),
        at: NOW,
    };
    at_once(store.change_status_under(change(Cause::ReportedDegraded), Precondition::ChangedSince(NOW)));
    at_once(store.begin_hibernation(first, HibernateReason::Ordered { force: true }, NOW));
    at_once(store.hibernating_rows());
    at_once(store.change_status(change(Cause::FinishHibernation)));
    at_once(store.change_status(change(Cause::Wake)));
    let end = ContainerEnd {
        workspace: first,
        incarnation: crate::domain::ids::Incarnation(1),
        reason: String::new(),
        payload: json!({}),
        budget,
        charged: true,
    };
    assert!(matches!(at_once(store.note_container_end(end, NOW)), GoneResult::RestartDue(_)));
    at_once(store.restarts_due(Timestamp(i64::MAX)));
    at_once(store.put_off_restart(first, NOW));
    assert!(matches!(at_once(store.pause_workspace(first, NOW)), PauseResult::Paused(_)));
    at_once(store.paused_above(WorkspaceId(id(2))));
    at_once(store.paused_along_with(first));
    let patch = WorkspacePatch {
        name: Some("renamed".parse().unwrap()),
        spec: SpecPatch { parent: Some(Some(WorkspaceId(id(4)))), ..SpecPatch::default() },
    };
    assert!(matches!(at_once(store.patch_workspace(first, patch, NOW)), PatchResult::Patched(_)));
    let back = WorkspacePatch {
        name: Some("w1".parse().unwrap()),
        spec: SpecPatch { parent: Some(None), ..SpecPatch::default() },
    };
    at_once(store.patch_workspace(first, back, NOW));
    assert!(at_once(store.memory_is_true()));
}

pub(super) fn drive_sweeps(store: &Store) {
    let (first, later) = (WorkspaceId(id(1)), Timestamp(NOW.0 + 1));
    at_once(store.sweep_rows(vec![first]));
    at_once(store.known_count(vec![first]));
    at_once(store.stale_candidates(vec![first], later));
    at_once(store.up_rows());
    at_once(store.provisioning_rows());
    at_once(store.live_count());
    at_once(store.purges_ordered());
    at_once(store.swept_since(NOW));
    let stale = StaleTokens { workspace: first, older_than: Timestamp(NOW.0 + 1), without_age: false };
    at_once(store.revoke_stale_tokens(stale, String::new(), "pass", NOW));
    let plan = PlanId(id(1));
    at_once(
        store.hold_plan(NewHeldPlan { id: plan, pass: "pass", reason: String::new(), plan: json!([]) }, NOW),
    );
    at_once(store.held_plan("pass"));
    at_once(store.approve_plan("pass".into(), plan, NOW));
    at_once(store.drop_held_plan("pass", plan));
}

pub(super) fn drive_trash(store: &Store) {
    let removed = WorkspaceId(id(4));
    at_once(store.remove_workspace(removed, true, false, NOW));
    at_once(store.remove_workspace(WorkspaceId(id(1)), false, false, NOW));
    let entry = TrashId(id(21));
    at_once(store.claim_for_trash(claim(21, 4, TrashReason::Removed, ClaimGuard::RowRemoved), NOW))
        .expect("claimed");
    at_once(store.claim_for_trash(claim(22, 9, TrashReason::Unknown, ClaimGuard::NoRow), NOW))
        .expect("claimed");
    at_once(store.trash());
    at_once(store.relevant_trash(vec![removed]));
    at_once(store.trash_entry(entry));
    at_once(store.trash_of(vec![removed]));
    at_once(store.trash_due(NOW, 5));
    at_once(store.mark_in_trash(entry, NOW));
    at_once(store.begin_delete(entry, DeleteGuard::Named, Some("pass"), NOW));
    at_once(store.cancel_transition(entry));
    at_once(store.drop_from_trash(entry, "volume-21".into()));
    at_once(store.undelete_workspace(removed, None, false, NOW));
    at_once(store.finish_restore(entry, NOW));
    at_once(store.remove_workspace(removed, true, false, NOW));
    at_once(store.claim_for_trash(claim(23, 4, TrashReason::Removed, ClaimGuard::RowRemoved), NOW))
        .expect("claimed");
    at_once(store.mark_in_trash(TrashId(id(23)), NOW));
    at_once(store.begin_delete(TrashId(id(23)), DeleteGuard::PurgeOrdered, None, NOW));
    at_once(store.begin_delete(TrashId(id(23)), DeleteGuard::Named, None, NOW));
    at_once(store.finish_delete(TrashId(id(23)), NOW));
    at_once(store.finish_purge(removed, NOW));
    at_once(store.begin_restore(TrashId(id(22)), NOW));
    at_once(store.accept_restore(TrashId(id(22)), Some(Requester::Operator), NOW));
}

/// Leaves operation 1 running, so that a start on its behalf may begin.
fn drive_operations(store: &Store, first: WorkspaceId) {
    let by = Some(Requester::Operator);
    let wake = || store.accept_operation(Requester::Operator.orders(first, Command::Wake), NOW);
    at_once(wake());
    let cancelled = at_once(wake()).operation.expect("it is accepted");
    at_once(store.cancel_operation(cancelled.id, NOW));
    at_once(store.operation(OperationId(1)));
    at_once(store.open_operations());
    at_once(store.operations(Some(first), 5));
    at_once(store.operations(None, 5));
    let other = at_once(store.accept_creation(workspace(40, None), by, NOW));
    let other = other.operation.expect("a container is started");
    let id = other.workspace;
    at_once(store.park_operation(other.clone(), "why".into(), NOW));
    at_once(store.continue_operation(id, NOW)).expect("it waits");
    at_once(store.end_operation(other, OperationState::Done, None, NOW));
    let orders = HibernateReason::Ordered { force: true };
    at_once(store.accept_hibernation(id, orders, by, NOW));
    at_once(store.accept_stop(id, by, NOW));
    at_once(store.accept_removal(id, (false, false), by, NOW));
    at_once(store.accept_undelete(id, (None, false), |_, _| Vec::new(), by, NOW));
}

fn card_event() -> Event {
    Event {
        id: 1,
        event_type: EventKind::CardUpdated.as_str().into(),
        workspace_id: Some(WorkspaceId(id(1))),
        payload: json!({ "agent_card_digest": "00" }),
        created_at: NOW,
    }
}

pub(super) fn drive_history(store: &Store) {
    at_once(store.emit(NOW, EventKind::Online, None, json!({}), None));
    at_once(store.newest_events(None, 5));
    at_once(store.newest_events(Some(WorkspaceId(id(1))), 5));
    at_once(store.events_after(0, 5));
    at_once(store.newest_sequence());
    at_once(store.with_card(card_event()));
    at_once(store.forget_events(NOW, 5));
    assert_eq!(at_once(store.forget_removed(Timestamp(NOW.0 + 1), vec![], 5)), 1);
}
