//! Simulated agents behind the host ports.

use std::{io, sync::Arc, time::Duration};

use ostler::{
    domain::{
        naming::LABEL_WORKSPACE,
        token::{Proof, Token},
    },
    http::PipeTo,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::{
    super::{
        executor::{Owner, Sim},
        invariants::Rule,
    },
    book::{Shared, open},
};
use crate::support::fake_engine::{FakeContainer, World};

/// Longest time from an agent's start, and so from its registration, to the start of its server.
const LISTENS_WITHIN_MS: usize = 8_000;

/// The servers behind the host ports: they listen late, answer, close the connection, or never answer.
pub(super) fn agents(sim: Sim, world: &Arc<World>, book: &Shared) -> PipeTo {
    let (world, book) = (Arc::downgrade(world), Arc::clone(book));
    Arc::new(move |address| {
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let world = world.upgrade().ok_or_else(refused)?;
        let state = world.state();
        let listens = |container: &&FakeContainer| {
            container.state.may_run()
                && container.spec.publish.is_some_and(|(_, port)| port == address.port())
        };
        let (id, container) =
            state.containers.iter().find(|(_, container)| listens(container)).ok_or_else(refused)?;
        // Field runtimes register before they listen: some at once, some seconds later. One container always takes the
        // same time.
        let listens_after = id.as_str().bytes().map(usize::from).sum::<usize>() * 997 % LISTENS_WITHIN_MS;
        let up_for = container.started_at.map(|at| sim.now().since(at)).unwrap_or_default();
        if up_for < Duration::from_millis(listens_after as u64) {
            return Err(refused());
        }
        let own = container.spec.labels.get(LABEL_WORKSPACE).cloned().unwrap_or_default();
        // The process reads its token at its start; while it runs, its volume holds the same token.
        let token = state.token_file(container);
        let token = token.and_then(|token| Token::parse(&String::from_utf8(token).ok()?));
        let proof = token.map(|token| token.digest().proof());
        drop(state);
        let (here, there) = tokio::io::duplex(16 * 1024);
        let outcome = sim.choose(|rng| rng.below(10));
        sim.spawn(Owner::Engine, answer(there, own, proof, Arc::clone(&book), outcome));
        Ok(here)
    })
}

async fn answer(mut wire: DuplexStream, own: String, proof: Option<Proof>, book: Shared, outcome: usize) {
    let mut received = Vec::new();
    let mut piece = [0; 2048];
    // The body of these messages ends with a brace; the head contains none.
    while !received.ends_with(b"}}}") && !received.ends_with(b"}") {
        match wire.read(&mut piece).await {
            Ok(0) | Err(_) => return,
            Ok(read) => received.extend_from_slice(&piece[..read]),
        }
    }
    let text = String::from_utf8_lossy(&received).into_owned();
    {
        let mut book = open(&book);
        book.arrived += 1;
        let carried: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("x-ostler-proof: ")).collect();
        // If its volume was wiped, only its process knows the token, and the proof is not checked.
        if proof.is_some_and(|proof| carried != [proof.expose()]) {
            book.broke(Rule::MessagesArrive.broken(format!(
                "a message arrived at {own} with {} proofs, and not with exactly the one of its token",
                carried.len()
            )));
        }
        let meant = book
            .sent
            .iter()
            .find(|(marker, _)| text.contains(*marker))
            .map(|(marker, route)| (marker.clone(), *route));
        match meant {
            Some((marker, (_, to))) if to.to_string() != own => {
                book.broke(
                    Rule::MessagesArrive.broken(format!("{marker} was sent to {to} and arrived at {own}")),
                );
            }
            Some((marker, _)) => book.note(format!("{marker} arrived at {own}")),
            None => book.broke(Rule::MessagesArrive.broken("a message arrived that was not sent")),
        }
    }
    match outcome {
        0 => {}
        1 => std::future::pending().await,
        _ => {
            let body = r#"{"result":{"parts":[{"text":"received"}]}}"#;
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
            // The caller may have disconnected.
            let _gone = wire.write_all(format!("{head}{body}").as_bytes()).await;
        }
    }
}
