//! Checks values that depend on each other.

use super::{load::Loading, settings::Config};

/// Maximum length of the path of a unix socket, in bytes: `sun_path` has 108 bytes, and the last of them must be zero.
const SOCKET_PATH_MAX: usize = 107;

impl Loading {
    /// Checks that two settings do not conflict, and that the socket's path is not too long.
    pub(super) fn check_together(&mut self) {
        let Config { ports, network, .. } = &self.config;
        if (ports.first..=ports.last).contains(&network.port) {
            let message = format!(
                "`network.port` {} is within `ports` {ports}, the range for containers: change one of them",
                network.port
            );
            let key = if self.origins.contains_key("network.port") { "network.port" } else { "ports" };
            self.problem(self.origin(key), message);
        }
        let socket = self.config.socket();
        let length = socket.as_os_str().len();
        if length > SOCKET_PATH_MAX {
            let message = format!(
                "`data_dir` is too long: the socket's path {} has {length} bytes, but the kernel allows at most \
                 {SOCKET_PATH_MAX}; choose a shorter directory",
                socket.display()
            );
            self.problem(self.origin("data_dir"), message);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::fixture::with_env;

    #[test]
    fn data_directory_too_long_for_a_socket_is_refused() {
        let long = format!("/{}", "d".repeat(100));
        let error = with_env("OSTLER_DATA_DIR", &long).unwrap_err();
        assert!(
            error.starts_with("OSTLER_DATA_DIR: `data_dir` is too long: the socket's path /ddd"),
            "{error}"
        );
        assert!(error.contains("has 113 bytes, but the kernel allows at most 107"), "{error}");
    }
}
