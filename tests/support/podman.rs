//! A Podman service for this test process, and the images of the tests.
//!
//! The service listens on its own socket but uses this machine's storage: separate storages would still share bridges
//! and subnets. So tests use unique names and labels, and each removes its own objects through its [`Cleanup`].
//! The service is the child of a shell that reads a pipe from the test process. When that process ends, however it
//! ends, the pipe closes and the shell ends the service. Podman is required: without it the tests fail and report the
//! reason.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::{net::UnixStream, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::OnceLock,
    thread,
    time::Duration,
};

use ostler::{
    engine::podman::{Podman, socket::SocketAddress},
    runtime::clock::{Clock as _, SystemClock},
};

const IMAGE: &str = "localhost/ostler-test:latest";
const DEMO_IMAGE: &str = "localhost/ostler-test-demo-agent:latest";
const BUSYBOX: &str = "/bin/busybox";
/// Generous, because a machine that swaps is slow.
const START_LIMIT: Duration = Duration::from_mins(1);
const CHECK_INTERVAL: Duration = Duration::from_millis(20);

/// A shell script that reads commands from standard input, one a line, and confirms each. When the pipe from the test
/// process closes, it ends the service and removes its directory.
const KEEPER: &str = r#"
service=
while read -r order; do
	case $order in
	start)
		rm -f "$1/podman.sock"
		podman system service --time=0 "unix://$1/podman.sock" >>"$1/log" 2>&1 &
		service=$!
		;;
	kill)
		kill -9 "$service"
		wait "$service"
		service=
		;;
	esac
	echo done
done
[ -z "$service" ] || kill "$service"
wait
rm -rf "$1"
"#;

/// A Podman service: the shared one of this process, or one of a single test that may kill it.
pub(crate) struct Service {
    directory: PathBuf,
    keeper: Child,
    answers: BufReader<ChildStdout>,
}

impl Service {
    /// Starts a service on its own socket and waits until it answers.
    pub(crate) fn start() -> Self {
        let directory =
            tempfile::Builder::new().prefix("ostler-podman-").tempdir().expect("a directory").keep();
        let mut command = Command::new("sh");
        // The service starts in its own directory, because conmon leaves a file named `oom` there.
        command.args(["-c", KEEPER, "keeper"]).arg(&directory).current_dir(&directory);
        if let Some(configuration) = configuration() {
            command.env("CONTAINERS_CONF", configuration);
        }
        // The keeper gets its own process group, so that a keyboard interrupt does not end it before its child.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut keeper = command.spawn().expect("a shell starts");
        let answers = BufReader::new(keeper.stdout.take().expect("its output is a pipe"));
        let mut service = Self { directory, keeper, answers };
        service.start_again();
        service
    }

    /// The service's socket, which stays the same after a kill and a restart.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.join("podman.sock")
    }

    /// Kills the service with `kill -9`. Containers keep running.
    #[allow(dead_code, reason = "of the two test binaries only tests/assurance uses it")]
    pub(crate) fn kill(&mut self) {
        self.send_order("kill");
    }

    /// Starts the service after a kill, and waits until it answers.
    pub(crate) fn start_again(&mut self) {
        self.send_order("start");
        wait_for_ping(&self.directory);
    }

    fn send_order(&mut self, order: &str) {
        let orders = self.keeper.stdin.as_mut().expect("its input is a pipe");
        writeln!(orders, "{order}").expect("the keeper reads its input");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("the keeper answers");
        assert_eq!(answer, "done\n", "the keeper of the Podman service has ended");
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // When its input ends, the keeper ends the service, removes the service's files and exits.
        drop(self.keeper.stdin.take());
        let _ended = self.keeper.wait();
    }
}

/// Interval between two readings of processor time; long enough for a busy service to be noticed.
const IDLE_CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// The process that listens on a service's socket.
pub(crate) struct ServiceProcess(i32);

impl ServiceProcess {
    pub(crate) fn of(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).expect("the service listens");
        Self(rustix::net::sockopt::socket_peercred(stream).expect("it has a peer").pid.as_raw_nonzero().get())
    }

    /// Processor time used so far, in clock ticks of 10 ms.
    fn ticks(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0)).expect("the service runs");
        let fields: Vec<_> = stat.rsplit(')').next().expect("a name").split_whitespace().collect();
        [11, 12].map(|field: usize| fields[field].parse::<u64>().expect("a number")).iter().sum()
    }

    /// Peak resident memory, in KiB.
    pub(crate) fn peak_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0)).expect("the service runs");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
        peak.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// Waits until it uses less than a tenth of a core, and returns how long that took; an error if it never does.
    pub(crate) async fn is_idle_within(&self, limit: Duration) -> Result<Duration, String> {
        let clock = SystemClock::start();
        loop {
            let (before, since) = (self.ticks(), clock.awake());
            clock.sleep(IDLE_CHECK_INTERVAL).await;
            let (used, took) = ((self.ticks() - before) * 10, clock.awake().0 - since.0);
            if used * 10 <= took {
                return Ok(Duration::from_millis(since.0));
            }
            if u128::from(clock.awake().0) > limit.as_millis() {
                return Err(format!("Podman's service stays busy: {used} ms of {took} ms"));
            }
        }
    }
}

/// The socket of this process's Podman service, which starts at the first call.
pub(crate) fn socket_path() -> &'static Path {
    static SOCKET: OnceLock<(Service, PathBuf)> = OnceLock::new();
    let (_, socket) = SOCKET.get_or_init(|| {
        build_image();
        let service = Service::start();
        let socket = service.socket();
        (service, socket)
    });
    socket
}

/// An engine client for this process's service.
pub(crate) fn engine() -> Podman {
    engine_at(socket_path())
}

/// An engine client for the service on this socket.
pub(crate) fn engine_at(socket: &Path) -> Podman {
    let address = socket.to_str().expect("temporary paths are UTF-8");
    Podman::connect(&SocketAddress::parse(address, "a test").expect("temporary paths are absolute"))
}

/// An image with a shell, the busybox tools, and users 0 and 1000.
pub(crate) fn image() -> &'static str {
    socket_path();
    IMAGE
}

/// The image of the demo agent, which implements the wire protocol. Rebuilt when its files have changed.
pub(crate) fn demo_image() -> &'static str {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        socket_path();
        let lock =
            fs::File::create(std::env::temp_dir().join("ostler-test-demo-image.lock")).expect("a lock file");
        lock.lock().expect("the lock is given");
        let mut build = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/demo-agent/build"));
        build.arg(DEMO_IMAGE).env_remove("OSTLER_ENGINE_SOCKET").env_remove("CONTAINER_HOST");
        if let Some(configuration) = configuration() {
            build.env("CONTAINERS_CONF", configuration);
        }
        run(&mut build).unwrap_or_else(|why| panic!("the demo agent's image: {why}"));
    });
    DEMO_IMAGE
}

/// A `podman` command with the same configuration as the service.
pub(crate) fn podman() -> Command {
    let mut command = Command::new("podman");
    if let Some(configuration) = configuration() {
        command.env("CONTAINERS_CONF", configuration);
    }
    command
}

/// Runs `podman` and returns its output; panics with its error message if it fails.
pub(crate) fn podman_output<'a>(arguments: impl IntoIterator<Item = &'a str>) -> String {
    run(podman().args(arguments)).unwrap_or_else(|why| panic!("{why}"))
}

/// The text of a file in a container, running or stopped.
#[track_caller]
pub(crate) fn file_of(container: &str, path: &str) -> String {
    let source = format!("{container}:{path}");
    let output = podman().args(["cp", &source, "-"]).output().expect("podman runs");
    assert!(output.status.success(), "{source}: {}", String::from_utf8_lossy(&output.stderr));
    let mut archive = tar::Archive::new(output.stdout.as_slice());
    let mut entries = archive.entries().expect("an archive");
    let mut text = String::new();
    entries
        .next()
        .expect("the archive holds a file")
        .and_then(|mut entry| entry.read_to_string(&mut text))
        .expect("the file is text");
    text
}

/// Output of `podman inspect` with a template; `None` if there is no such object.
pub(crate) fn inspected(what: &str, template: &str) -> Option<String> {
    let output = podman().args(["inspect", "--format", template, what]).output().expect("podman runs");
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The host directory of a volume.
#[track_caller]
pub(crate) fn directory_of(volume: &str) -> PathBuf {
    podman_output(["volume", "inspect", "--format", "{{.Mountpoint}}", volume]).trim().into()
}

pub(crate) fn has_volume(volume: &str) -> bool {
    podman().args(["volume", "exists", volume]).status().is_ok_and(|status| status.success())
}

/// Removes, when dropped, the objects of one test: containers first, by force, then volumes and networks.
#[must_use]
pub(crate) struct Cleanup {
    /// Labels (`key=value`) of the objects to remove.
    labels: Vec<String>,
    /// Names of the objects to remove, of any kind.
    names: Vec<String>,
}

impl Cleanup {
    /// Removes objects with this label, `key=value`.
    pub(crate) fn of_label(label: impl Into<String>) -> Self {
        Self { labels: vec![label.into()], names: Vec::new() }
    }

    /// Also removes objects with this name.
    pub(crate) fn and_name(mut self, name: impl Into<String>) -> Self {
        self.names.push(name.into());
        self
    }

    fn found(&self, list: &[&str]) -> Vec<String> {
        let mut found = self.names.clone();
        for label in &self.labels {
            let filter = format!("label={label}");
            match run(podman().args(list).args(["--filter", &filter])) {
                Ok(listed) => found.extend(listed.lines().map(str::to_owned)),
                Err(why) => eprintln!("cleaning up: {why}"),
            }
        }
        found
    }

    fn remove(&self, list: &[&str], remove: &[&str]) {
        let found = self.found(list);
        if found.is_empty() {
            return;
        }
        let remove_all = || run(podman().args(remove).args(&found));
        // Podman refuses the first removal after conmon was killed; the second one succeeds.
        if let Err(why) = remove_all().or_else(|_| remove_all())
            && !why.contains("no such")
            && !why.contains("not found")
        {
            eprintln!("cleaning up: {why}");
        }
    }
}

impl Drop for Cleanup {
    fn drop(&mut self) {
        self.remove(&["ps", "--all", "--quiet", "--no-trunc"], &["rm", "--force", "--ignore", "--time=0"]);
        self.remove(&["volume", "ls", "--quiet"], &["volume", "rm"]);
        self.remove(&["network", "ls", "--quiet"], &["network", "rm"]);
    }
}

fn run(command: &mut Command) -> Result<String, String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)))
    }
}

/// The `containers.conf` that this machine needs; `None` if Podman works without one.
///
/// Each setting is for a condition under which a plain `podman run` fails.
pub(crate) fn configuration() -> Option<&'static Path> {
    static CONFIGURATION: OnceLock<Option<PathBuf>> = OnceLock::new();
    let made = CONFIGURATION.get_or_init(|| {
        let text = needed_settings();
        (!text.is_empty()).then(|| {
            // Every process writes the same text, so the order of writers does not matter.
            let path = std::env::temp_dir().join("ostler-test-containers.conf");
            let new = path.with_extension(std::process::id().to_string());
            fs::write(&new, text)
                .and_then(|()| fs::rename(&new, &path))
                .expect("a containers.conf is written");
            path
        })
    });
    made.as_deref()
}

fn needed_settings() -> String {
    let mut settings = String::new();
    if !may_raise_limits() {
        // Without this setting, Podman requests limits above its own, for which it needs CAP_SYS_RESOURCE.
        settings += "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n";
    }
    settings += "[engine]\n";
    if !Path::new("/run/systemd/system").exists() {
        settings += "cgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n";
    }
    let unified = fs::read_to_string("/sys/fs/cgroup/unified/cgroup.controllers").unwrap_or_default();
    if !unified.trim().is_empty() {
        // crun refuses cgroup version 2 controllers on a host that also uses version 1.
        settings += "runtime = \"runc\"\n";
    }
    if settings == "[engine]\n" { String::new() } else { settings }
}

fn may_raise_limits() -> bool {
    const CAP_SYS_RESOURCE: u32 = 24;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    // Without root, Podman does not try to raise limits.
    effective.is_none_or(|set| set == 0 || set >> CAP_SYS_RESOURCE & 1 == 1)
}

fn wait_for_ping(directory: &Path) {
    let mut waited = Duration::ZERO;
    while !answers(&directory.join("podman.sock")) {
        if waited > START_LIMIT {
            let log = fs::read_to_string(directory.join("log")).unwrap_or_default();
            panic!("the Podman service did not answer within {} s. Its log: {log}", START_LIMIT.as_secs());
        }
        thread::sleep(CHECK_INTERVAL);
        waited += CHECK_INTERVAL;
    }
}

fn answers(socket: &Path) -> bool {
    let ask = || {
        let mut stream = UnixStream::connect(socket)?;
        stream.write_all(b"GET /_ping HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map(|_| answer)
    };
    ask().is_ok_and(|answer: String| answer.starts_with("HTTP/1.1 200"))
}

/// Builds the image once for all processes, under a file lock.
fn build_image() {
    if image_exists() {
        return;
    }
    let lock = fs::File::create(std::env::temp_dir().join("ostler-test-image.lock")).expect("a lock file");
    lock.lock().expect("the lock is given");
    if image_exists() {
        return;
    }
    let file = tempfile::Builder::new().suffix(".tar").tempfile().expect("a file");
    fs::write(file.path(), root_file_system()).expect("the image's files are written");
    let path = file.path().to_str().expect("temporary paths are UTF-8");
    let changes = ["-c", "ENV PATH=/bin", "-c", "CMD [\"/bin/sh\"]"];
    podman_output(["import", "--quiet"].into_iter().chain(changes).chain([path, IMAGE]));
}

fn image_exists() -> bool {
    let status = podman().args(["image", "exists", IMAGE]).status();
    match status.map(|status| status.code()) {
        Ok(Some(0)) => true,
        Ok(Some(1)) => false,
        other => panic!(
            "these tests need Podman: `podman image exists` ended with {other:?}. Install podman runc netavark \
             aardvark-dns iptables catatonit busybox-static"
        ),
    }
}

fn root_file_system() -> Vec<u8> {
    let busybox = fs::read(BUSYBOX).unwrap_or_else(|error| {
        panic!("these tests need a static {BUSYBOX} (Debian: busybox-static): {error}");
    });
    let applets = run(Command::new(BUSYBOX).arg("--list")).unwrap_or_else(|why| panic!("{why}"));
    let mut files = tar::Builder::new(Vec::new());
    for (directory, mode) in
        [("bin", 0o755), ("etc", 0o755), ("root", 0o700), ("run", 0o755), ("tmp", 0o1777), ("var", 0o755)]
    {
        append(&mut files, &format!("{directory}/"), tar::EntryType::Directory, mode, &[]);
    }
    append(&mut files, "bin/busybox", tar::EntryType::Regular, 0o755, &busybox);
    // A link named busybox would replace the program with a link to itself.
    for applet in applets.lines().filter(|applet| *applet != "busybox" && !applet.contains('/')) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_mode(0o777);
        header.set_size(0);
        files.append_link(&mut header, format!("bin/{applet}"), "busybox").expect("a link is packed");
    }
    let passwd = b"root:x:0:0::/root:/bin/sh\nagent:x:1000:1000::/tmp:/bin/sh\n";
    append(&mut files, "etc/passwd", tar::EntryType::Regular, 0o644, passwd);
    append(&mut files, "etc/group", tar::EntryType::Regular, 0o644, b"root:x:0:\nagent:x:1000:\n");
    files.into_inner().expect("an archive in memory")
}

fn append(files: &mut tar::Builder<Vec<u8>>, path: &str, kind: tar::EntryType, mode: u32, content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(content.len() as u64);
    files.append_data(&mut header, path, content).expect("a file is packed");
}

/// Whether a process has ended, reaped or not.
pub(crate) fn has_ended(pid: impl std::fmt::Display) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_none_or(|rest| rest.is_empty() || rest.trim_start().starts_with(['Z', 'X']))
}
