//! Messages between agents (wire protocol, §6): checked, held while their target wakes, passed on.
//!
//! A caller's request is held rather than queued: the runtimes in the field cannot use "accepted", and a queue is a
//! place where a message can be lost after its sender was told otherwise. Whoever sends has the agent's own answer, or
//! an error. What a target is, is asked again after every change, from memory; nothing here trusts an earlier look.

use std::{
    collections::{HashMap, VecDeque},
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use http_body_util::BodyExt;
use tokio::sync::{broadcast::error::RecvError, oneshot};

use super::{
    Api,
    auth::{self, Principal, WORKSPACE_HEADER},
    error::{HttpError, HttpResult},
    forward::{ForwardError, ForwardLimits, ForwardRequest, Target, complete_message},
    listen::read_body,
    routes::Path,
};
use crate::{
    clock::{Boxed, within},
    domain::{
        ids::WorkspaceId,
        status::{Failure, Status},
        time::Awake,
        workspace::Kind,
    },
    ops::{Applied, OpError, Order, Passage},
    store::{Member, Scope},
};

/// The largest message.
const MESSAGE_MAX_BYTES: usize = 10 << 20;
/// How long a message may take to arrive.
const MESSAGE_LIMIT: Duration = Duration::from_mins(1);
/// How long a message waits for its target to come up.
const HOLD: Duration = Duration::from_mins(1);
/// When a sender whose target did not come up in time is to try again, in seconds.
const TRY_AGAIN: u64 = 15;

/// How often one workspace may wake another: two that greet each other every hour by accident never sleep otherwise.
/// Messages that come while their target is being woken wait along, and cost nobody a wake.
pub(super) struct WakeBudget {
    per_hour: usize,
    wakes: Mutex<Wakes>,
}

#[derive(Default)]
struct Wakes {
    /// When, by who woke whom.
    woken: HashMap<(WorkspaceId, WorkspaceId), VecDeque<Awake>>,
    /// How many orders to wake it are under way.
    under_way: HashMap<WorkspaceId, usize>,
}

impl WakeBudget {
    pub(super) fn new(per_hour: u32) -> Self {
        Self { per_hour: usize::try_from(per_hour).unwrap_or(usize::MAX), wakes: Mutex::default() }
    }

    /// Begins a wake, which [`Self::end`] has to end, or says in how many seconds there may be another. An admin
    /// wakes without a limit.
    fn begin(&self, from: Option<WorkspaceId>, to: WorkspaceId, now: Awake) -> Result<(), u64> {
        const HOUR: Duration = Duration::from_hours(1);
        let mut wakes = self.wakes.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(from), false) = (from, wakes.under_way.contains_key(&to)) {
            wakes.woken.retain(|_, times| times.back().is_some_and(|last| now.since(*last) < HOUR));
            let times = wakes.woken.entry((from, to)).or_default();
            times.retain(|at| now.since(*at) < HOUR);
            if times.len() >= self.per_hour {
                let free_in = times.front().map_or(HOUR, |first| HOUR.saturating_sub(now.since(*first)));
                return Err(free_in.as_secs().max(1));
            }
            times.push_back(now);
        }
        *wakes.under_way.entry(to).or_default() += 1;
        Ok(())
    }

    fn end(&self, to: WorkspaceId) {
        let mut wakes = self.wakes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = wakes.under_way.get_mut(&to) {
            *count -= 1;
            if *count == 0 {
                wakes.under_way.remove(&to);
            }
        }
    }
}

/// Who sends; an admin sends as nobody.
fn sender(principal: Principal, headers: &HeaderMap) -> HttpResult<Option<WorkspaceId>> {
    let claimed = if headers.contains_key(WORKSPACE_HEADER) { Some(auth::caller(headers)?) } else { None };
    match (principal, claimed) {
        (Principal::Admin, _) => Ok(None),
        (Principal::Workspace(holder), None) => Ok(Some(holder.workspace)),
        (Principal::Workspace(holder), Some(claimed)) if claimed == holder.workspace => Ok(Some(claimed)),
        (Principal::Workspace(_), Some(_)) => Err(auth::invalid()),
    }
}

pub(super) async fn message(
    State(api): State<Api>,
    principal: Principal,
    Path(reference): Path<String>,
    request: Request,
) -> HttpResult<Response> {
    let from = sender(principal, request.headers())?;
    let to = match reference.parse::<WorkspaceId>() {
        Ok(id) if api.0.store.member(id).is_some() => id,
        Ok(_) | Err(_) => {
            let row = api.addressed(principal, &reference, Scope::Any).await?;
            if row.status == Status::Removed {
                return Err(HttpError::gone());
            }
            row.id
        }
    };
    if let Some(from) = from
        && !api.0.store.may_communicate(from, to, api.0.access.root_siblings)
    {
        return Err(HttpError::forbidden("access denied: workspaces cannot communicate per hierarchy rules"));
    }
    let (parts, body) = request.into_parts();
    let body = read_body(body, MESSAGE_MAX_BYTES, MESSAGE_LIMIT, &*api.0.clock).await?;
    let fresh_id = || api.0.entropy.uuid().to_string();
    let body = complete_message(&body, fresh_id).map_err(|error| HttpError::invalid(error.to_string()))?;
    let (member, passage) = hold(&api, from, to, patience(&parts.headers)).await?;
    let caller = from.map_or_else(|| "admin".to_owned(), |from| from.to_string());
    let request = ForwardRequest { body, headers: parts.headers, caller };
    let target = target(&api, &member).await?;
    match api.0.forwarder.forward(&target, request, &limits(&api, to, &member)).await {
        // The passage ends with the answer's last byte, or with whoever reads it going away.
        Ok(answer) => Ok(answer.map(|body| {
            Body::new(body.map_frame(move |frame| {
                let _on_its_way = &passage;
                frame
            }))
        })),
        Err(error) => Ok(unreached(&api, to, &member, error).await.into_response()),
    }
}

/// How long the sender waits at most.
fn patience(headers: &HeaderMap) -> Duration {
    let asked = headers.get("x-timeout").and_then(|value| value.to_str().ok()?.trim().parse::<u64>().ok());
    asked.map_or(HOLD, |seconds| HOLD.min(Duration::from_secs(seconds.max(1))))
}

/// Waits until a message can be passed on, waking its target where it sleeps. From then on it counts as on its way.
async fn hold(
    api: &Api,
    from: Option<WorkspaceId>,
    to: WorkspaceId,
    patience: Duration,
) -> HttpResult<(Member, Passage)> {
    if let Some(ready) = look(api, from, to)? {
        return Ok(ready);
    }
    let until = api.0.clock.awake() + patience;
    // Heard from before the next look on, so that no change falls in between.
    let mut feed = api.0.store.subscribe();
    let mut waking: Option<oneshot::Receiver<OpError>> = None;
    loop {
        if let Some(ready) = look(api, from, to)? {
            return Ok(ready);
        }
        let status = api.0.store.member(to).map(|member| member.status);
        if matches!(status, Some(Status::Hibernated | Status::Hibernating)) && waking.is_none() {
            waking = Some(wake(api, from, to)?);
        }
        let left = until.since(api.0.clock.awake());
        let changed = async {
            loop {
                tokio::select! {
                    biased;
                    failed = failure(&mut waking) => return Some(failed),
                    event = feed.recv() => match event {
                        Ok(event) if event.workspace_id == Some(to) => return None,
                        Ok(_) => {}
                        Err(RecvError::Lagged(_) | RecvError::Closed) => return None,
                    },
                }
            }
        };
        match within(&*api.0.clock, left, changed).await {
            Some(None) => {}
            Some(Some(error)) => return Err(error.into()),
            None => {
                return Err(HttpError::new(StatusCode::SERVICE_UNAVAILABLE, "workspace is waking up")
                    .with("waking", true)
                    .with("retry_after", TRY_AGAIN)
                    .retry_after(TRY_AGAIN));
            }
        }
    }
}

/// Resolves when the wake has failed, and never otherwise: that it went well is told by the status.
async fn failure(waking: &mut Option<oneshot::Receiver<OpError>>) -> OpError {
    if let Some(outcome) = waking
        && let Ok(error) = outcome.await
    {
        *waking = None;
        return error;
    }
    // Asked for once more after it went well, it would answer at once, and for ever.
    *waking = None;
    std::future::pending().await
}

fn wake(api: &Api, from: Option<WorkspaceId>, to: WorkspaceId) -> HttpResult<oneshot::Receiver<OpError>> {
    api.0.wakes.begin(from, to, api.0.clock.awake()).map_err(HttpError::too_many)?;
    let (failed, outcome) = oneshot::channel();
    let (api, own) = (api.clone(), api);
    // The sender may go away; whoever was woken is woken all the same.
    let wake: Boxed<()> = Box::pin(async move {
        let woken = api.0.ops.wake(to).await;
        api.0.wakes.end(to);
        if let Err(error) = woken {
            tracing::warn!(workspace = %to, %error, "a message could not wake it");
            let _gone = failed.send(error);
        }
    });
    own.0.spawn.spawn(wake);
    Ok(outcome)
}

/// Whether a message can be passed on right now. `None` means not yet.
fn look(api: &Api, from: Option<WorkspaceId>, to: WorkspaceId) -> HttpResult<Option<(Member, Passage)>> {
    // Counted first: from here on it is not put to sleep. While it is being, there is no passage.
    let passage = api.0.ops.traffic().begin(from, to);
    let member = api.0.store.member(to).ok_or_else(HttpError::gone)?;
    if member.status == Status::Paused || api.0.store.is_below_paused(to) {
        return Err(HttpError::conflict("workspace is paused, or one above it is: resume it first"));
    }
    match (member.status, passage) {
        (Status::Online | Status::Degraded, Some(passage)) => Ok(Some((member, passage))),
        (Status::Online | Status::Degraded, None)
        | (Status::Provisioning | Status::Offline | Status::Hibernating | Status::Hibernated, _) => Ok(None),
        (Status::Failed(failure), _) => Err(failed(failure)),
        (Status::AwaitingAgent, _) => {
            let why = "workspace is external and its agent is not there";
            Err(HttpError::new(StatusCode::SERVICE_UNAVAILABLE, why).with("status", "awaiting_agent"))
        }
        (Status::Paused | Status::Removed, _) => Err(HttpError::gone()),
    }
}

fn failed(failure: Failure) -> HttpError {
    let why = format!("workspace has failed ({}): `ostler why` says more", failure.as_str());
    HttpError::new(StatusCode::SERVICE_UNAVAILABLE, why).with("status", "failed")
}

async fn target(api: &Api, member: &Member) -> HttpResult<Target> {
    let unreachable = || HttpError::new(StatusCode::BAD_GATEWAY, "failed to reach workspace agent");
    match member.kind {
        Kind::Container => {
            let port = member.host_port.ok_or_else(unreachable)?;
            Ok(Target::Local(SocketAddr::from((Ipv4Addr::LOCALHOST, port))))
        }
        Kind::External => {
            let url = member.url.as_deref().ok_or_else(unreachable)?;
            // Resolved and judged anew for every message, and the connection goes where was judged.
            Ok(Target::Checked(api.check_url(url).await.map_err(|_| unreachable())?))
        }
    }
}

fn limits(api: &Api, to: WorkspaceId, member: &Member) -> ForwardLimits {
    let (store, clock) = (api.0.store.clone(), Arc::clone(&api.0.clock));
    let alive = Arc::new(move || {
        let heard_at = store.member(to)?.said.heard_at?;
        Some(clock.awake() - clock.now().since(heard_at))
    });
    let mut limits = ForwardLimits::new(alive);
    if let Some(seconds) = member.said.idle_timeout_seconds {
        limits.idle = Duration::from_secs(seconds.into());
    }
    limits
}

/// What a sender is told whose message did not get there. Whether a container is dead is found out by looking at it,
/// and what follows from that is begun by the same look.
async fn unreached(api: &Api, to: WorkspaceId, member: &Member, error: ForwardError) -> HttpError {
    tracing::info!(workspace = %to, %error, "a message did not get there");
    match error {
        ForwardError::TooLarge => {
            HttpError::new(StatusCode::BAD_GATEWAY, "the agent's answer is larger than 64 MiB")
        }
        ForwardError::TimedOut(_) => HttpError::new(StatusCode::GATEWAY_TIMEOUT, error.to_string()),
        ForwardError::Refused | ForwardError::Unreachable(_) => {
            if member.kind == Kind::Container {
                let looked = api.0.ops.order(to, Order::MarkOffline(member.incarnation)).await;
                let ended = matches!(looked, Ok(Applied::Done(_)));
                let status = api.0.store.member(to).map(|now| now.status);
                if let Some(Status::Failed(failure)) = status {
                    // It ended once too often: nobody starts it again.
                    return failed(failure);
                }
                if ended || status == Some(Status::Offline) {
                    let message = "workspace agent unreachable — container restart triggered";
                    return HttpError::new(StatusCode::SERVICE_UNAVAILABLE, message).with("restarting", true);
                }
            }
            HttpError::new(StatusCode::BAD_GATEWAY, "failed to reach workspace agent")
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn id(number: u128) -> WorkspaceId {
        WorkspaceId(Uuid::from_u128(number))
    }

    #[test]
    fn a_sender_wakes_another_only_so_often_within_an_hour() {
        let budget = WakeBudget::new(2);
        let (a, b) = (id(1), id(2));
        let minute = 60_000;
        let take = |budget: &WakeBudget, from, to, now| {
            budget.begin(Some(from), to, Awake(now)).inspect(|()| budget.end(to))
        };
        assert_eq!(take(&budget, a, b, 0), Ok(()));
        assert_eq!(take(&budget, a, b, 10 * minute), Ok(()));
        assert_eq!(take(&budget, a, b, 20 * minute), Err(40 * 60));
        assert_eq!(take(&budget, b, a, 20 * minute), Ok(()), "another pair has its own");
        assert_eq!(take(&budget, a, b, 61 * minute), Ok(()));
        assert_eq!(take(&WakeBudget::new(0), a, b, 0), Err(3600));
    }

    #[test]
    fn who_waits_along_while_it_is_woken_wakes_nobody() {
        let budget = WakeBudget::new(1);
        let (a, b, c) = (id(1), id(2), id(3));
        assert_eq!(budget.begin(Some(a), b, Awake(0)), Ok(()));
        assert_eq!(budget.begin(Some(a), b, Awake(1)), Ok(()));
        assert_eq!(budget.begin(Some(c), b, Awake(1)), Ok(()));
        for _ in 0..3 {
            budget.end(b);
        }
        assert!(budget.begin(Some(a), b, Awake(2)).is_err(), "it has had its one");
        assert_eq!(budget.begin(Some(c), b, Awake(2)), Ok(()), "it has had none");
    }
}
