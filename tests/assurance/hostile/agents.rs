//! Agents that send heartbeats during the attack.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    PATIENCE,
    answer::{Line, Read},
    loopback,
    served::Caller,
};
use crate::support::wire::Ask;

/// Heartbeat interval, on the clock of the attacked process.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(30);
/// How long a runtime waits for the answer.
pub(super) const RUNTIMES_WAIT: Duration = Duration::from_secs(10);
/// Limit for an answer in this test. It is longer than [`RUNTIMES_WAIT`], because a busy machine is not a violation.
/// Answers that take longer than `RUNTIMES_WAIT` are counted.
const LIMIT: Duration = Duration::from_mins(1);
/// Number of agents that share an address.
const PER_ADDRESS: usize = 100;

pub(super) struct Agent {
    number: usize,
    from: Ipv4Addr,
    /// Whether it uses one connection, or a new one for each heartbeat; real agents do either.
    keeps: bool,
    /// A complete request.
    heartbeat: Vec<u8>,
}

/// Results of an agent.
#[derive(Default)]
pub(super) struct AgentResult {
    /// Time until each answer of 200.
    pub(super) took: Vec<Duration>,
    /// Other results.
    pub(super) missed: Vec<String>,
    /// Longest time between two heartbeats that were sent. On an overloaded machine the test itself sends late.
    pub(super) longest_gap: Duration,
}

impl Agent {
    pub(super) fn new(number: usize, caller: &Caller) -> Self {
        let heartbeat =
            Ask::post("/registry/heartbeat").token(&caller.token).json(caller.heartbeat_body()).bytes();
        Self { number, from: loopback(1, number / PER_ADDRESS), keeps: number.is_multiple_of(2), heartbeat }
    }

    async fn run(
        self,
        to: SocketAddr,
        every: Duration,
        first: Instant,
        up: Arc<AtomicUsize>,
        stop: CancellationToken,
    ) -> AgentResult {
        let (mut result, mut kept, mut sent) = (AgentResult::default(), None, None);
        // Spreads the heartbeats evenly.
        let offset = every / 1000 * u32::try_from(self.number % 1000).expect("below 1000");
        let mut turn = tokio::time::interval_at(first + offset, every);
        while stop.run_until_cancelled(turn.tick()).await.is_some() {
            let begun = Instant::now();
            result.longest_gap = result.longest_gap.max(begun - sent.unwrap_or(begun));
            sent = Some(begun);
            let answered = tokio::time::timeout(LIMIT, self.send_heartbeat(to, &mut kept)).await;
            match answered.unwrap_or_else(|_| Err(format!("no answer within {LIMIT:?}"))) {
                Ok(()) => {
                    result.took.push(begun.elapsed());
                    if result.took.len() == 1 {
                        up.fetch_add(1, Ordering::AcqRel);
                    }
                }
                Err(why) => {
                    kept = None;
                    let way = if self.keeps { "its connection" } else { "a new connection" };
                    result.missed.push(format!("agent {} from {} on {way}: {why}", self.number, self.from));
                }
            }
        }
        result
    }

    /// Sends a heartbeat. A connection that was closed meanwhile is replaced once, as clients do.
    async fn send_heartbeat(&self, to: SocketAddr, kept: &mut Option<Line>) -> Result<(), String> {
        if let Some(mut line) = kept.take()
            && line.write(&self.heartbeat).await.is_ok()
            && let Read::Answer(answer) = line.answer(false).await
        {
            *kept = Some(line);
            return answer.check_heartbeat();
        }
        let mut line = Line::open(self.from, to).await.map_err(|error| format!("no connection: {error}"))?;
        line.write(&self.heartbeat).await.map_err(|error| format!("not written: {error}"))?;
        match line.answer(false).await {
            Read::Answer(answer) => {
                *kept = self.keeps.then_some(line);
                answer.check_heartbeat()
            }
            Read::End => Err("the connection ended without an answer".into()),
            Read::Nonsense(what) => Err(format!("the answer is not valid HTTP: {what}")),
        }
    }
}

/// Starts the heartbeats; resolves once the first heartbeat of each agent was answered. The returned future resolves
/// when all agents have stopped.
pub(super) async fn begin(
    agents: Vec<Agent>,
    to: SocketAddr,
    speed: u32,
    stop: &CancellationToken,
) -> impl Future<Output = Vec<AgentResult>> + use<> {
    let every = HEARTBEAT_EVERY / speed;
    let mut tasks = JoinSet::new();
    let (first, count, up) = (Instant::now(), agents.len(), Arc::new(AtomicUsize::new(0)));
    for agent in agents {
        tasks.spawn(agent.run(to, every, first, Arc::clone(&up), stop.clone()));
    }
    let mut interval = tokio::time::interval(Duration::from_millis(50));
    while up.load(Ordering::Acquire) < count {
        interval.tick().await;
        assert!(
            first.elapsed() < PATIENCE,
            "before the attack, the first heartbeat of some agents was not answered"
        );
    }
    async move { tasks.join_all().await }
}
