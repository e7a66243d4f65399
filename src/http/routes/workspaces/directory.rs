//! Whether the user of a container can work in a directory of the host.

use std::os::unix::fs::MetadataExt as _;

use crate::{
    domain::{runtime::User, spec::Access},
    engine::EngineInfo,
    http::Api,
};

/// Warns if the user of a runtime lacks permissions in the directory that is shared with its container.
pub(super) fn closed_directory(
    api: &Api,
    info: &EngineInfo,
    runtime: &str,
    shared: Option<(&str, Access)>,
) -> Option<String> {
    let (directory, access) = shared?;
    let settings = api.0.ops.settings();
    let runtime = settings.runtimes.get(runtime)?;
    let found = std::fs::metadata(directory).ok()?;
    // A rootless Podman runs as the user of this process.
    let service = if info.rootless { Some(std::fs::metadata("/proc/self").ok()?.uid()) } else { None };
    let shared = Shared { path: directory, owner: found.uid(), group: found.gid(), mode: found.mode() };
    closed(&shared, access, runtime.user, service)
}

/// A directory of this host that is to be mounted into a container.
struct Shared<'a> {
    path: &'a str,
    owner: u32,
    group: u32,
    mode: u32,
}

/// Returns the reason why the user of a container cannot work in the directory, with advice. `None` if the user can.
///
/// `service` is the uid as which a rootless Podman runs on the host; `None` if Podman runs as root. In rootless
/// containers, only root is that host user. The other users have subordinate ids on the host, which only Podman knows.
/// So in the rootless case nothing is reported about directories that belong to another user.
fn closed(shared: &Shared<'_>, access: Access, user: User, service: Option<u32>) -> Option<String> {
    let Shared { path, owner, group, mode } = *shared;
    // Only the permission bits of the user's own class (owner, group or others) apply: an owner without the write bit
    // cannot write, even if others can.
    let bits = match service {
        Some(service) if user.uid == 0 || owner != service => return None,
        None if user.uid == 0 => return None,
        None if user.uid == owner => mode >> 6 & 0o7,
        None if user.gid == group => mode >> 3 & 0o7,
        Some(_) | None => mode & 0o7,
    };
    let (enters, writes) = (bits & 0o5 == 0o5, bits & 0o2 != 0);
    let cannot = match (enters, access) {
        (false, _) => "cannot enter and read",
        (true, Access::ReadWrite) if !writes => "cannot write to",
        (true, Access::ReadWrite | Access::ReadOnly) => return None,
    };
    let why = format!("the container's user {user} {cannot} {path} (mode {:04o})", mode & 0o7777);
    Some(match (service, enters) {
        (Some(_), true) => format!(
            "{why}: with rootless Podman this user differs from yours on the host. Make it the owner with \
             `podman unshare chown {user} {path}`, or share it read-only as {path}:ro"
        ),
        (Some(_), false) => format!(
            "{why}: with rootless Podman this user differs from yours on the host. Make it the owner with \
             `podman unshare chown {user} {path}`, or let all users read it with `chmod o+rx {path}`"
        ),
        (None, true) => format!("{why}: run `chown {user} {path}`, or share it read-only as {path}:ro"),
        (None, false) => format!("{why}: share another directory, or give this user access to the directory"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_access_is_checked_by_the_users_permission_class() {
        let user = User { uid: 1000, gid: 1000 };
        let closed_note = |user, (owner, group, mode), access, service| {
            closed(&Shared { path: "/d", owner, group, mode }, access, user, service)
        };
        for (directory, writable) in [
            ((1000, 0, 0o755), true),
            ((0, 0, 0o755), false),
            ((0, 1000, 0o775), true),
            ((0, 0, 0o777), true),
            ((1000, 1000, 0o077), false),
        ] {
            let closed_note = closed_note(user, directory, Access::ReadWrite, None);
            assert_eq!(closed_note.is_none(), writable, "{directory:?}: {closed_note:?}");
        }
        assert_eq!(
            closed_note(User { uid: 0, gid: 0 }, (7, 7, 0o700), Access::ReadWrite, None),
            None,
            "root may write everywhere"
        );
        assert_eq!(closed_note(user, (0, 0, 0o755), Access::ReadOnly, None), None, "others may read");
        let closed_to = closed_note(user, (0, 0, 0o700), Access::ReadOnly, None)
            .expect("others cannot enter the directory");
        assert!(closed_to.contains("cannot enter and read /d (mode 0700)"), "{closed_to}");
    }

    #[test]
    fn rootless_container_user_is_checked_as_another_user() {
        let user = User { uid: 1000, gid: 1000 };
        let closed_note = |user, owner, mode, access| {
            closed(&Shared { path: "/d", owner, group: 1000, mode }, access, user, Some(1000))
        };
        let own =
            closed_note(user, 1000, 0o700, Access::ReadWrite).expect("a subordinate uid is a different user");
        assert!(own.contains("cannot enter and read /d") && own.contains("podman unshare chown"), "{own}");
        let own =
            closed_note(user, 1000, 0o755, Access::ReadWrite).expect("others may not write to the directory");
        assert!(own.contains("cannot write to /d") && own.contains("/d:ro"), "{own}");
        assert_eq!(closed_note(user, 1000, 0o755, Access::ReadOnly), None);
        assert_eq!(closed_note(user, 1000, 0o777, Access::ReadWrite), None);
        assert_eq!(
            closed_note(User { uid: 0, gid: 0 }, 1000, 0o700, Access::ReadWrite),
            None,
            "root in the container is the user on the host"
        );
        assert_eq!(
            closed_note(user, 100_999, 0o700, Access::ReadWrite),
            None,
            "the owner may be the user with this uid in the container"
        );
    }
}
