//! Address of Podman's socket.
//!
//! An address given in ostler's configuration or in `CONTAINER_HOST` is used as it is. The first call shows whether a
//! service answers there. If none answers, no other address is tried: in another engine, all of ostler's containers
//! would seem to be gone. If no address is given, ostler looks for the socket at the paths that Podman's own systemd
//! units use.
//!
//! `active_service` of containers.conf is not read: the `podman` command uses it only with `--remote`, and in most
//! cases it names another machine.

use std::{
    fmt, io,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
};

use super::super::ServiceCommands;

const SCHEME: &str = "unix://";

/// The unix socket of a Podman service, as an absolute path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketAddress(PathBuf);

impl SocketAddress {
    /// Parses `unix:///path` or a bare absolute path. `origin` names the source of the text, for the error.
    ///
    /// # Errors
    /// [`SocketError::NotLocal`] for anything but the absolute path of a unix socket.
    pub fn parse(text: &str, origin: &'static str) -> Result<Self, SocketError> {
        let path = Path::new(text.strip_prefix(SCHEME).unwrap_or(text));
        if path.is_absolute() {
            Ok(Self(path.to_owned()))
        } else {
            Err(SocketError::NotLocal { address: text.to_owned(), origin })
        }
    }

    /// Absolute path of the socket.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl SocketAddress {
    /// Instructions to start and restart the service behind this socket. They depend on the socket's path: Podman's
    /// system unit listens at `/run/podman`, a user's unit in that user's runtime directory.
    #[must_use]
    pub fn commands(&self) -> ServiceCommands {
        let by_hand = format!("podman system service --time=0 {self}");
        let restart_by_hand =
            format!("end the process that serves {}, then run `{by_hand}`", self.0.display());
        let unit = if self.0.parent() == Some(Path::new("/run/podman")) {
            Some("systemctl")
        } else if self.0.ends_with("podman/podman.sock") {
            Some("systemctl --user")
        } else {
            None
        };
        match unit {
            Some(systemctl) => ServiceCommands {
                start: format!("`{systemctl} enable --now podman.socket`, or without systemd: `{by_hand}`"),
                restart: format!(
                    "`{systemctl} restart podman.service`, or without systemd: {restart_by_hand}"
                ),
            },
            None => ServiceCommands { start: format!("`{by_hand}`"), restart: restart_by_hand },
        }
    }
}

impl fmt::Display for SocketAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", self.0.display())
    }
}

/// Why no socket can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SocketError {
    /// The address is not that of a unix socket.
    #[error(
        "`{address}`, from {origin}, is not the address of a unix socket: ostler uses only the Podman of this \
         machine. Set it in the form `unix:///path/to/podman.sock`"
    )]
    NotLocal {
        /// The given address.
        address: String,
        /// Source of the address.
        origin: &'static str,
    },
    /// No socket exists at any of the usual paths.
    #[error(
        "no Podman socket was found: {}. Start Podman's service with `{enable}` or `podman system service --time=0 \
         {SCHEME}{}`, or set `engine.socket`",
        tried.join("; "),
        wanted.display()
    )]
    NotFound {
        /// Every path that was checked, with the reason why it was rejected.
        tried: Vec<String>,
        /// Path at which the socket is expected.
        wanted: PathBuf,
        /// The command that enables Podman's socket unit.
        enable: &'static str,
    },
}

/// Finds Podman's socket as Podman's own tools do: the configured address, then `CONTAINER_HOST`, then the usual path
/// for this user.
///
/// # Errors
/// [`SocketError`] with the paths that were tried, and with commands that start Podman's service.
pub fn find(
    configured: Option<&str>,
    environment: impl Fn(&str) -> Option<String>,
    uid: u32,
) -> Result<SocketAddress, SocketError> {
    let environment = |name: &str| environment(name).filter(|value| !value.is_empty());
    if let Some(address) = configured {
        return SocketAddress::parse(address, "the configuration");
    }
    if let Some(address) = environment("CONTAINER_HOST") {
        // Unlike the configuration, this variable always contains an address with a scheme.
        return if address.starts_with(SCHEME) {
            SocketAddress::parse(&address, "CONTAINER_HOST")
        } else {
            Err(SocketError::NotLocal { address, origin: "CONTAINER_HOST" })
        };
    }
    first_socket(usual_paths(environment, uid), uid)
}

fn usual_paths(environment: impl Fn(&str) -> Option<String>, uid: u32) -> Vec<PathBuf> {
    let mut directories = if uid == 0 {
        vec![PathBuf::from("/run")]
    } else {
        let runtime = environment("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
        runtime.into_iter().chain([PathBuf::from(format!("/run/user/{uid}"))]).collect()
    };
    directories.dedup();
    directories.into_iter().map(|directory| directory.join("podman/podman.sock")).collect()
}

fn first_socket(places: Vec<PathBuf>, uid: u32) -> Result<SocketAddress, SocketError> {
    let mut tried = Vec::new();
    for location in &places {
        match is_socket(location) {
            Ok(()) => return Ok(SocketAddress(location.clone())),
            Err(why) => tried.push(format!("{}: {why}", location.display())),
        }
    }
    let enable = if uid == 0 {
        "systemctl enable --now podman.socket"
    } else {
        "systemctl --user enable --now podman.socket"
    };
    Err(SocketError::NotFound { tried, wanted: places.into_iter().next().unwrap_or_default(), enable })
}

fn is_socket(path: &Path) -> io::Result<()> {
    if std::fs::metadata(path)?.file_type().is_socket() {
        Ok(())
    } else {
        Err(io::Error::other("not a socket"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn nothing(_: &str) -> Option<String> {
        None
    }

    #[test]
    fn configured_socket_takes_precedence_and_is_not_probed() {
        let host = |name: &str| (name == "CONTAINER_HOST").then(|| "unix:///from/host.sock".to_owned());
        let found = |configured| find(configured, host, 0).unwrap().path().to_owned();
        assert_eq!(found(Some("unix:///configured.sock")), Path::new("/configured.sock"));
        assert_eq!(found(Some("/bare.sock")), Path::new("/bare.sock"));
        assert_eq!(found(None), Path::new("/from/host.sock"));
    }

    #[test]
    fn invalid_socket_address_error_names_its_source() {
        for address in ["ssh://box/run/podman.sock", "tcp://localhost:8080", "unix://relative", "/bare"] {
            let host = |name: &str| (name == "CONTAINER_HOST").then(|| address.to_owned());
            let error = find(None, host, 0).unwrap_err().to_string();
            assert!(error.contains(address) && error.contains("CONTAINER_HOST"), "{error}");
        }
        let error = find(Some("podman.sock"), nothing, 0).unwrap_err().to_string();
        assert!(error.contains("`podman.sock`, from the configuration"), "{error}");
    }

    #[test]
    fn user_socket_is_found_in_the_runtime_directory() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("podman/podman.sock");
        std::fs::create_dir(socket.parent().unwrap()).unwrap();
        let _listener = UnixListener::bind(&socket).unwrap();
        let runtime = directory.path().to_str().unwrap().to_owned();
        let environment = |name: &str| (name == "XDG_RUNTIME_DIR").then(|| runtime.clone());
        assert_eq!(find(None, environment, 1000).unwrap().path(), socket);
    }

    #[test]
    fn root_uses_only_the_system_socket() {
        let environment = |name: &str| (name == "XDG_RUNTIME_DIR").then(|| "/run/user/0".to_owned());
        assert_eq!(usual_paths(environment, 0), [Path::new("/run/podman/podman.sock")]);
    }

    #[test]
    fn start_command_names_the_socket_and_its_systemd_scope() {
        let start = |path: &str| SocketAddress(path.into()).commands().start;
        let user = start("/run/user/1000/podman/podman.sock");
        assert!(user.contains("`systemctl --user enable --now podman.socket`"), "{user}");
        assert!(user.contains("--time=0 unix:///run/user/1000/podman/podman.sock`"), "{user}");
        let system = start("/run/podman/podman.sock");
        assert!(system.contains("`systemctl enable --now podman.socket`"), "{system}");
        assert_eq!(start("/srv/p.sock"), "`podman system service --time=0 unix:///srv/p.sock`");
    }

    #[test]
    fn missing_socket_error_lists_tried_paths_and_commands() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("podman/podman.sock");
        std::fs::create_dir(file.parent().unwrap()).unwrap();
        std::fs::write(&file, "").unwrap();
        let runtime = directory.path().to_str().unwrap().to_owned();
        let environment = |name: &str| (name == "XDG_RUNTIME_DIR").then(|| runtime.clone());
        let error = find(None, environment, 4_000_000_001).unwrap_err().to_string();
        for part in [
            "podman/podman.sock: not a socket",
            "/run/user/4000000001/podman/podman.sock: No such file",
            "systemctl --user enable --now podman.socket",
            &format!("podman system service --time=0 unix://{}", file.display()),
        ] {
            assert!(error.contains(part), "{part:?} is not in: {error}");
        }
    }
}
