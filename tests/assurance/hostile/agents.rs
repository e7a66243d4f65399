//! The agents that beat, whatever else goes on.

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
    served::Who,
};
use crate::support::wire::Ask;

/// How often an agent beats, on the clock of who hears it.
const BEAT_EVERY: Duration = Duration::from_secs(30);
/// How long a runtime waits for the answer.
pub(super) const RUNTIMES_WAIT: Duration = Duration::from_secs(10);
/// How long is waited here, because a machine that has other things to do breaks nothing: who is later than runtimes
/// wait is counted.
const LIMIT: Duration = Duration::from_mins(1);
/// So many agents have an address together.
const PER_ADDRESS: usize = 100;

/// An agent.
pub(super) struct Agent {
    number: usize,
    from: Ipv4Addr,
    /// Whether it beats on one connection, or on a new one each time: both are in the field.
    keeps: bool,
    beat: Vec<u8>,
}

/// How an agent fared.
#[derive(Default)]
pub(super) struct Heard {
    /// How long each answer of 200 took.
    pub(super) took: Vec<Duration>,
    /// What came instead.
    pub(super) missed: Vec<String>,
    /// The longest time between two beats as they were sent: on a machine that is too busy this side is late too.
    pub(super) longest_gap: Duration,
}

impl Agent {
    pub(super) fn new(number: usize, who: &Who) -> Self {
        let beat = Ask::post("/registry/heartbeat").token(&who.token).json(who.beat()).bytes();
        Self { number, from: loopback(1, number / PER_ADDRESS), keeps: number.is_multiple_of(2), beat }
    }

    async fn live(
        self,
        to: SocketAddr,
        every: Duration,
        first: Instant,
        up: Arc<AtomicUsize>,
        stop: CancellationToken,
    ) -> Heard {
        let (mut heard, mut kept, mut sent) = (Heard::default(), None, None);
        // Spread, so that beats come evenly.
        let offset = every / 1000 * u32::try_from(self.number % 1000).expect("below 1000");
        let mut turn = tokio::time::interval_at(first + offset, every);
        while stop.run_until_cancelled(turn.tick()).await.is_some() {
            let begun = Instant::now();
            heard.longest_gap = heard.longest_gap.max(begun - sent.unwrap_or(begun));
            sent = Some(begun);
            let said = tokio::time::timeout(LIMIT, self.say(to, &mut kept)).await;
            match said.unwrap_or_else(|_| Err(format!("no answer within {LIMIT:?}"))) {
                Ok(()) => {
                    heard.took.push(begun.elapsed());
                    if heard.took.len() == 1 {
                        up.fetch_add(1, Ordering::AcqRel);
                    }
                }
                Err(why) => {
                    kept = None;
                    let way = if self.keeps { "its connection" } else { "a new connection" };
                    heard.missed.push(format!("agent {} from {} on {way}: {why}", self.number, self.from));
                }
            }
        }
        heard
    }

    /// Beats. A connection that was ended meanwhile is replaced once, as clients do.
    async fn say(&self, to: SocketAddr, kept: &mut Option<Line>) -> Result<(), String> {
        if let Some(mut line) = kept.take()
            && line.write(&self.beat).await.is_ok()
            && let Read::Answer(answer) = line.answer(false).await
        {
            *kept = Some(line);
            return answer.is_ok_beat();
        }
        let mut line = Line::open(self.from, to).await.map_err(|error| format!("no connection: {error}"))?;
        line.write(&self.beat).await.map_err(|error| format!("not written: {error}"))?;
        match line.answer(false).await {
            Read::Answer(answer) => {
                *kept = self.keeps.then_some(line);
                answer.is_ok_beat()
            }
            Read::End => Err("the connection ended without an answer".into()),
            Read::Nonsense(what) => Err(format!("the answer is no HTTP: {what}")),
        }
    }
}

/// Begins to beat; resolves once each has been heard for the first time. The future that is answered resolves when all
/// have stopped.
pub(super) async fn begin(
    agents: Vec<Agent>,
    to: SocketAddr,
    speed: u32,
    stop: &CancellationToken,
) -> impl Future<Output = Vec<Heard>> + use<> {
    let every = BEAT_EVERY / speed;
    let mut living = JoinSet::new();
    let (first, count, up) = (Instant::now(), agents.len(), Arc::new(AtomicUsize::new(0)));
    for agent in agents {
        living.spawn(agent.live(to, every, first, Arc::clone(&up), stop.clone()));
    }
    let mut look = tokio::time::interval(Duration::from_millis(50));
    while up.load(Ordering::Acquire) < count {
        look.tick().await;
        assert!(first.elapsed() < PATIENCE, "not all agents were heard before anything was done to them");
    }
    async move { living.join_all().await }
}
