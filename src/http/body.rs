//! Reads a request body, up to limits in bytes and time.

use std::{fmt, time::Duration};

use axum::body::{Body, Bytes, HttpBody as _};
use http_body_util::BodyExt as _;

use super::server::admission::refusal::Refusal;
use crate::runtime::clock::{Clock, within};

/// Why a request body could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyError {
    /// Larger than the limit.
    TooLarge,
    /// Not complete within the time limit.
    TooSlow,
    /// The connection broke, or the body was not valid HTTP.
    Broken,
    /// Refused by admission control, because the body would exceed a limit on bytes in memory.
    NoRoom(Refusal),
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLarge => "the request's body is too large",
            Self::TooSlow => "the request's body did not arrive in time",
            Self::Broken => "the request's body is incomplete or malformed",
            Self::NoRoom(refusal) => return refusal.fmt(f),
        })
    }
}

impl std::error::Error for BodyError {}

/// Reads a request body of at most `most` bytes within `limit` in total.
///
/// # Errors
/// See [`BodyError`]. A body whose announced length is too large is refused before any of it is read.
pub(crate) async fn read_body(
    body: Body,
    most: usize,
    limit: Duration,
    clock: &dyn Clock,
) -> Result<Bytes, BodyError> {
    read_body_within(body, most, limit, clock, &mut |_| Ok(())).await
}

/// Reads the first `keep` bytes of a body, and reports whether there is more.
///
/// The rest is received and discarded, up to `most` bytes in all, so that an ordinary client has finished sending
/// before it gets the response.
///
/// # Errors
/// When the start does not arrive within `limit`, or the connection breaks before it is complete.
pub(crate) async fn read_start(
    mut body: Body,
    keep: usize,
    most: usize,
    limit: Duration,
    clock: &dyn Clock,
) -> Result<(Bytes, bool), BodyError> {
    let start =
        within(clock, limit, gather_start(&mut body, keep)).await.unwrap_or(Err(BodyError::TooSlow))?;
    if start.len() <= keep {
        return Ok((start, false));
    }
    let mut discarded = start.len();
    let discard = async {
        while let Ok(Some(data)) = next_data(&mut body, usize::MAX).await {
            discarded += data.len();
            if discarded > most {
                break;
            }
        }
    };
    // A timeout here is ignored: the rest is not needed.
    let _in_time = within(clock, limit, discard).await;
    Ok((start.slice(..keep), true))
}

/// Reads until the body ends or more than `keep` bytes are there.
async fn gather_start(body: &mut Body, keep: usize) -> Result<Bytes, BodyError> {
    let Some(first) = next_data(body, usize::MAX).await? else { return Ok(Bytes::new()) };
    if first.len() > keep {
        return Ok(first);
    }
    let Some(second) = next_data(body, usize::MAX).await? else { return Ok(first) };
    let mut start = Vec::with_capacity((first.len() + second.len()) * 2);
    start.extend_from_slice(&first);
    start.extend_from_slice(&second);
    while start.len() <= keep {
        let Some(data) = next_data(body, usize::MAX).await? else { break };
        start.extend_from_slice(&data);
    }
    Ok(start.into())
}

/// Like `read_body`, but calls `room` before it uses memory, with the number of bytes that the body will then occupy.
/// If the length is announced, one call covers the whole body.
///
/// # Errors
/// See [`BodyError`].
pub(super) async fn read_body_within(
    body: Body,
    most: usize,
    limit: Duration,
    clock: &dyn Clock,
    room: &mut (dyn FnMut(usize) -> Result<(), BodyError> + Send),
) -> Result<Bytes, BodyError> {
    let announced = body.size_hint().lower();
    if announced > most as u64 {
        return Err(BodyError::TooLarge);
    }
    let announced = usize::try_from(announced).unwrap_or(most);
    room(announced)?;
    within(clock, limit, gather(body, most, announced, room)).await.unwrap_or(Err(BodyError::TooSlow))
}

async fn gather(
    mut body: Body,
    most: usize,
    announced: usize,
    room: &mut (dyn FnMut(usize) -> Result<(), BodyError> + Send),
) -> Result<Bytes, BodyError> {
    let Some(first) = next_data(&mut body, most).await? else { return Ok(Bytes::new()) };
    // Nearly every body arrives in one piece, which then needs no copy.
    let Some(second) = next_data(&mut body, most - first.len()).await? else { return Ok(first) };
    let mut whole = Vec::new();
    // Allocated pages use no memory until they are written, so a large announced length costs nothing before the bytes
    // arrive.
    grow(&mut whole, announced.max((first.len() + second.len()) * 2).min(most), room)?;
    whole.extend_from_slice(&first);
    whole.extend_from_slice(&second);
    drop((first, second));
    while let Some(data) = next_data(&mut body, most - whole.len()).await? {
        if whole.len() + data.len() > whole.capacity() {
            let doubled = (whole.capacity() * 2).clamp(whole.len() + data.len(), most);
            grow(&mut whole, doubled, room)?;
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.into())
}

fn grow(
    whole: &mut Vec<u8>,
    capacity: usize,
    room: &mut (dyn FnMut(usize) -> Result<(), BodyError> + Send),
) -> Result<(), BodyError> {
    room(capacity)?;
    whole.reserve_exact(capacity.saturating_sub(whole.len()));
    Ok(())
}

async fn next_data(body: &mut Body, most: usize) -> Result<Option<Bytes>, BodyError> {
    while let Some(frame) = body.frame().await {
        // Trailers are ignored: no handler reads them.
        let Ok(data) = frame.map_err(|_| BodyError::Broken)?.into_data() else { continue };
        return if data.len() > most { Err(BodyError::TooLarge) } else { Ok(Some(data)) };
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::{io, sync::Arc};

    use futures_util::stream;

    use super::*;
    use crate::runtime::manual_clock::ManualClock;

    fn pieces(pieces: &[&'static str]) -> Body {
        let pieces: Vec<_> = pieces.iter().map(|piece| Ok::<_, io::Error>(Bytes::from(*piece))).collect();
        Body::from_stream(stream::iter(pieces))
    }

    #[tokio::test]
    async fn request_body_is_read_up_to_its_limit() {
        let clock = ManualClock::default();
        let limit = Duration::from_secs(10);
        let read = |body, most| read_body(body, most, limit, &clock);
        assert_eq!(read(Body::empty(), 0).await, Ok(Bytes::new()));
        assert_eq!(read(Body::from("abc"), 3).await, Ok("abc".into()));
        assert_eq!(read(Body::from("abcd"), 3).await, Err(BodyError::TooLarge));
        assert_eq!(read(pieces(&["a", "", "bc", "d"]), 4).await, Ok("abcd".into()));
        assert_eq!(read(pieces(&["a", "bc", "de"]), 4).await, Err(BodyError::TooLarge));
        let broken = stream::iter([Ok(Bytes::from("a")), Err(io::Error::other("gone"))]);
        assert_eq!(read(Body::from_stream(broken), 4).await, Err(BodyError::Broken));
    }

    #[tokio::test]
    async fn request_body_start_is_kept_and_the_rest_discarded() {
        let clock = ManualClock::default();
        let read = |body, keep| read_start(body, keep, 8, Duration::from_secs(10), &clock);
        assert_eq!(read(Body::from("abc"), 3).await, Ok(("abc".into(), false)));
        assert_eq!(read(Body::from("abcd"), 3).await, Ok(("abc".into(), true)));
        assert_eq!(read(pieces(&["a", "", "bc", "de"]), 4).await, Ok(("abcd".into(), true)));
        assert_eq!(read(pieces(&["a", "bc"]), 3).await, Ok(("abc".into(), false)));
        let endless = stream::repeat_with(|| Ok::<_, io::Error>(Bytes::from("abc")));
        assert_eq!(read(Body::from_stream(endless), 4).await, Ok(("abca".into(), true)));
        let broken = stream::iter([Ok(Bytes::from("a")), Err(io::Error::other("gone"))]);
        assert_eq!(read(Body::from_stream(broken), 4).await, Err(BodyError::Broken));
    }

    #[tokio::test]
    async fn slow_request_body_is_refused_by_a_total_time_limit() {
        let clock = Arc::new(ManualClock::default());
        let ticking = Arc::clone(&clock);
        // Each piece arrives soon after the previous one, so a time limit for each piece would never be exceeded.
        let dripping = Body::from_stream(stream::unfold((), move |()| {
            ticking.advance(Duration::from_secs(1));
            async {
                tokio::task::yield_now().await;
                Some((Ok::<_, io::Error>(Bytes::from("a")), ()))
            }
        }));
        let read = read_body(dripping, usize::MAX, Duration::from_secs(10), &*clock).await;
        assert_eq!(read, Err(BodyError::TooSlow));
    }
}
