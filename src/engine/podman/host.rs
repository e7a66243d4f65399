//! The host of a Podman service.

/// Properties of Podman's host. They do not change while its service runs, so they are queried once.
pub(super) struct Host {
    pub(super) rootless: bool,
    pub(super) ignored_limits: Vec<&'static str>,
}
