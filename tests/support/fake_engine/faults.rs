//! Faults that a test injects into the calls.

use std::time::Duration;

use ostler::engine::ErrorKind;

/// A call that is about to be carried out, as passed to the hook that selects faults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    /// Name of the method, such as `start_container`.
    pub(crate) method: &'static str,
    /// The container, volume or image that the call concerns.
    pub(crate) object: String,
}

/// Fault injected into a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The call succeeds.
    None,
    /// The call fails and has no effect.
    Before(ErrorKind),
    /// The call takes effect, and the answer is an error.
    After(ErrorKind),
    /// The call takes effect after this delay and answers then.
    Slow(Duration),
    /// The call takes effect at once. After this delay it answers with the result from that time.
    Stale(Duration),
    /// A listing shows at most this many entries; other calls succeed.
    Partial(usize),
    /// The call is never answered, but takes effect after this delay.
    Late(Duration),
    /// The call is never answered and has no effect.
    Lost,
    /// Writing a file reports success but does not change the file, as engines do that write beneath a mount. Other
    /// calls succeed.
    Pretended,
    /// A start is interrupted. From then on the container's port is in use, and the container never starts.
    HalfWay,
}

pub(super) type FaultHook = Box<dyn FnMut(&Call) -> Fault + Send>;
