//! The list of the workspaces that a workspace may communicate with.

use axum::{Json, extract::State, http::HeaderMap};
use serde::Deserialize;

use super::discover::proxy_url;
use crate::{
    api::peer::PeerView,
    http::{
        Api,
        auth::{self, PathId, Principal},
        error::{HttpError, HttpResult},
        routes::Query,
    },
    store::Described,
};

/// The most bytes of cards in one list of peers.
const PEERS_MAX_BYTES: usize = 1 << 20;

#[derive(Deserialize)]
pub(in crate::http) struct PeersQuery {
    q: Option<String>,
}

pub(in crate::http) async fn peers(
    State(api): State<Api>,
    principal: Principal,
    PathId(id): PathId,
    headers: HeaderMap,
    Query(query): Query<PeersQuery>,
) -> HttpResult<Json<Vec<PeerView>>> {
    principal.require_workspace(id)?;
    if api.0.store.member(id).is_none() {
        return Err(HttpError::not_found("workspace not found"));
    }
    let wanted = query.q.unwrap_or_default().to_lowercase();
    let matches = |text: &str| text.to_lowercase().contains(&wanted);
    let platform_url = auth::platform_url(&api, &headers);
    // The permit is held until the rows have been converted into the response.
    let _permit = api.list_permit().await;
    let peers = api.0.store.peers(id, api.access().root_siblings).await?;
    let peers = peers.into_iter().filter(|peer| {
        wanted.is_empty()
            || matches(peer.row.name.as_str())
            || peer.row.spec.role.as_deref().is_some_and(matches)
    });
    Ok(Json(within_bytes(peers.map(|peer| peer_view(peer, &platform_url)).collect())))
}

/// Limits the cards in a list of peers to [`PEERS_MAX_BYTES`] in total. If they exceed it, cards larger than an equal
/// share are left out, so a large card never displaces a small one. Every peer stays in the list.
fn within_bytes(mut peers: Vec<PeerView>) -> Vec<PeerView> {
    let size = |peer: &PeerView| {
        peer.agent_card.as_ref().and_then(|card| serde_json::to_vec(card).ok()).map_or(0, |card| card.len())
    };
    let sizes: Vec<_> = peers.iter().map(size).collect();
    if sizes.iter().sum::<usize>() > PEERS_MAX_BYTES {
        let share = PEERS_MAX_BYTES / peers.len().max(1);
        for (peer, size) in peers.iter_mut().zip(sizes) {
            if size > share {
                peer.agent_card = None;
            }
        }
    }
    peers
}

fn peer_view(peer: Described, platform_url: &str) -> PeerView {
    let Described { row, vitals } = peer;
    PeerView {
        id: row.id.to_string(),
        name: row.name.to_string(),
        role: row.spec.role,
        tier: row.spec.tier.number(),
        status: row.status.as_str().into(),
        url: proxy_url(platform_url, row.id),
        parent_id: row.spec.parent.map(|parent| parent.to_string()),
        active_tasks: vitals.active_tasks,
        agent_card: vitals.agent_card,
    }
}
