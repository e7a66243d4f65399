//! Temporary file systems: small ones that become full, and images that can be truncated, copied and frozen.
//!
//! They need root and loop devices, which CI has. Every mount is unmounted when its guard is dropped, also when a
//! campaign panics; the kernel then detaches the loop device.

use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

/// How long to wait for open files before unmounting.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs a program; `Err` holds its error output.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let ran =
        Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    if ran.status.success() {
        return Ok(());
    }
    let error_text = String::from_utf8_lossy(&ran.stderr);
    Err(format!("`{program} {}` failed ({}): {}", arguments.join(" "), ran.status, error_text.trim()))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temp directories have plain names")
}

/// A mounted file system.
#[derive(Debug)]
pub(crate) struct Mounted {
    at: PathBuf,
}

impl Mounted {
    /// Mounts a tmpfs of this size.
    pub(crate) fn tmpfs(at: &Path, size: &str) -> Result<Self, String> {
        fs::create_dir_all(at).map_err(|error| error.to_string())?;
        run(
            "mount",
            &["-t", "tmpfs", "-o", &format!("size={size},mode=0700"), "ostler-assurance", text(at)],
        )?;
        Ok(Self { at: at.to_owned() })
    }

    /// Mounts the ext4 file system in an image.
    pub(crate) fn image(image: &Path, at: &Path) -> Result<Self, String> {
        fs::create_dir_all(at).map_err(|error| error.to_string())?;
        run("mount", &["-t", "ext4", "-o", "loop", text(image), text(at)])?;
        Ok(Self { at: at.to_owned() })
    }

    pub(crate) fn at(&self) -> &Path {
        &self.at
    }

    /// Remounts it with an option, such as another size or read-only.
    pub(crate) fn remount(&self, option: &str) -> Result<(), String> {
        run("mount", &["-o", &format!("remount,{option}"), text(&self.at)])
    }

    /// Blocks writes until the guard is dropped. Writes in progress are completed first, and no new ones begin.
    pub(crate) fn freeze(&self) -> Result<Frozen<'_>, String> {
        run("fsfreeze", &["--freeze", text(&self.at)])?;
        Ok(Frozen(&self.at))
    }

    /// Unmounts it, once all its files are closed.
    pub(crate) fn leave(self) -> Result<(), String> {
        wait_until_closed(&self.at);
        let left = run("umount", &[text(&self.at)]);
        if left.is_ok() {
            std::mem::forget(self);
        }
        left
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if !thread::panicking() {
            wait_until_closed(&self.at);
        }
        if run("umount", &[text(&self.at)]).is_err()
            && let Err(error) = run("umount", &["--lazy", text(&self.at)])
        {
            println!("  left mounted: {error}");
        }
    }
}

/// Waits for a store's threads, which close its files shortly after the store was dropped.
fn wait_until_closed(at: &Path) {
    let end = Instant::now() + PATIENCE;
    while open_files_below(at) > 0 && Instant::now() < end {
        thread::sleep(Duration::from_millis(1));
    }
}

/// Number of files that this process has open below a directory.
pub(crate) fn open_files_below(at: &Path) -> usize {
    let open = fs::read_dir("/proc/self/fd").expect("the kernel lists them");
    let paths = open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    paths.filter(|path| path.starts_with(at)).count()
}

/// Unfreezes the file system when dropped.
pub(crate) struct Frozen<'a>(&'a Path);

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        if let Err(error) = run("fsfreeze", &["--unfreeze", text(self.0)]) {
            println!("  left frozen: {error}");
        }
    }
}

/// Creates an image with an empty ext4 file system, initialised completely: lazy initialisation by a kernel thread
/// would write at times that the test does not control.
pub(crate) fn make_image(image: &Path, mib: u64) -> Result<(), String> {
    let file = File::create(image).map_err(|error| error.to_string())?;
    file.set_len(mib << 20).map_err(|error| error.to_string())?;
    let eager = "lazy_itable_init=0,lazy_journal_init=0";
    run(
        "mkfs.ext4",
        &["-q", "-F", "-m", "0", "-b", "4096", "-N", "256", "-J", "size=4", "-E", eager, text(image)],
    )
}

/// Copies a file without its zero blocks.
pub(crate) fn copy_sparse(from: &Path, to: &Path) -> std::io::Result<()> {
    let (mut from, mut to) = (File::open(from)?, File::create(to)?);
    let mut block = vec![0; 64 << 10];
    to.set_len(from.metadata()?.len())?;
    loop {
        let read = from.read(&mut block)?;
        if read == 0 {
            return Ok(());
        }
        if block[..read].iter().all(|byte| *byte == 0) {
            to.seek(SeekFrom::Current(i64::try_from(read).expect("a block is small")))?;
        } else {
            to.write_all(&block[..read])?;
        }
    }
}

/// Uses up all free space; returns the file to delete.
pub(crate) fn fill(at: &Path) -> std::io::Result<PathBuf> {
    let ballast = at.join("ballast");
    let mut file = File::create(&ballast)?;
    for block in [4096, 1] {
        while file.write_all(&vec![0; block]).is_ok() {}
    }
    Ok(ballast)
}

/// Whether file systems can be mounted here; `Err` holds the reason.
pub(crate) fn can_mount() -> Result<(), String> {
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let image = directory.path().join("image");
    make_image(&image, 16)?;
    Mounted::image(&image, &directory.path().join("at"))?.leave()
}
