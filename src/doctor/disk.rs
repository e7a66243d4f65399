//! Checks free space on the disk of the data directory.

use super::verdict::{fail, ok, warn};
use crate::api::doctor::Check;

/// Free bytes below which the disk check warns. The registry needs little; container logs and images need more.
const LOW_DISK_BYTES: u64 = 512 << 20;

/// Free bytes below which the disk check fails: the store's next batch of changes may not fit.
const FULL_DISK_BYTES: u64 = 16 << 20;

/// Checks free space and free inodes in the file system of `data_dir`.
#[must_use]
pub fn disk(data_dir: &std::path::Path) -> Check {
    match rustix::fs::statvfs(data_dir) {
        Ok(space) => {
            let free = space.f_bavail * space.f_frsize;
            // File systems without an inode table (Btrfs) report 0 inodes in total.
            let no_inodes = space.f_files > 0 && space.f_favail == 0;
            room(free, no_inodes, &data_dir.display().to_string())
        }
        Err(error) => fail("disk", format!("{}: {error}", data_dir.display()), "check the data directory"),
    }
}

fn room(free: u64, no_inodes: bool, location: &str) -> Check {
    let found = format!("{} MiB free in {location}", free >> 20);
    if no_inodes {
        fail("disk", format!("{found}, but no free inodes"), "delete files that are not needed")
    } else if free < FULL_DISK_BYTES {
        fail("disk", found, "free some disk space: no change can be stored")
    } else if free < LOW_DISK_BYTES {
        warn("disk", found, "free some disk space: on a full disk no change can be stored")
    } else {
        ok("disk", found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disk_check_fails_when_disk_or_inodes_are_exhausted() {
        for (free, no_inodes, verdict) in [
            (0, false, "fail"),
            (FULL_DISK_BYTES - 1, false, "fail"),
            (FULL_DISK_BYTES, false, "warn"),
            (LOW_DISK_BYTES, false, "ok"),
            (LOW_DISK_BYTES, true, "fail"),
        ] {
            assert_eq!(
                room(free, no_inodes, "/data").verdict,
                verdict,
                "{free} bytes, no inodes: {no_inodes}"
            );
        }
    }
}
