# shellcheck shell=bash
# Functions shared by quickstart, check and the image builds.
#
# Sourced under `set -euo pipefail`. Predicates print nothing and return 0 or 1. Functions named ensure_* check first,
# print what they change and why, and change nothing the second time. Every tool is looked up on PATH, so that a test
# can replace it (packaging/test-lib).

# shellcheck disable=SC2034 # read by the scripts that source this file
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
DEMO_IMAGE=${QUICKSTART_IMAGE:-localhost/ostler-demo-agent:latest}

# ---- output ------------------------------------------------------------------------------------------

say() { printf '  %s\n' "$*"; }
step() { printf '\n==> %s\n' "$*"; }

# die MESSAGE [NEXT_STEP...]: prints both and exits with 1.
die() {
	printf '\nerror: %s\n' "$1" >&2
	shift
	[ $# -eq 0 ] || printf '  next: %s\n' "$@" >&2
	exit 1
}

# ---- accounts ----------------------------------------------------------------------------------------

is_root() { [ "$(id -u)" = 0 ]; }

# Used only where root is needed: packages, /dev/net/tun, /etc/subuid.
as_root() {
	if is_root; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo "$@"
	else
		die "this needs root, and sudo is not installed: $*" "run it as root, or install sudo and try again"
	fi
}

# The account that builds. Under sudo it is the calling user, so that root's cargo is not used and target/ contains no
# files owned by root.
builder() {
	if is_root && [ -n "${SUDO_USER:-}" ] && [ "$SUDO_USER" != root ]; then
		printf '%s\n' "$SUDO_USER"
	else
		id -un
	fi
}

builder_home() {
	if [ "$(builder)" = "$(id -un)" ]; then
		printf '%s\n' "$HOME"
	else
		getent passwd "$(builder)" | cut -d : -f 6
	fi
}

# Cargo's own directory comes first in PATH. rustup installs there without a change to shell profiles, and Debian's
# older cargo may stay installed.
as_builder() {
	local path
	path="${CARGO_HOME:-$(builder_home)/.cargo}/bin:$PATH"
	if [ "$(builder)" = "$(id -un)" ]; then
		PATH=$path "$@"
	else
		sudo -u "$(builder)" -H env PATH="$path" "$@"
	fi
}

# ---- Debian packages ---------------------------------------------------------------------------------

os_release() { sed -n "s/^$1=//p" "${OS_RELEASE:-/etc/os-release}" | tr -d '"'; }

# Other distributions have other package names.
is_debian_12_or_13() {
	case $(os_release ID):$(os_release VERSION_ID) in
	debian:12 | debian:13) return 0 ;;
	*) return 1 ;;
	esac
}

is_installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

# ensure_packages "NAME: why" ...
ensure_packages() {
	local entry missing=()
	for entry in "$@"; do
		is_installed "${entry%%:*}" || missing+=("$entry")
	done
	if [ ${#missing[@]} -eq 0 ]; then
		say "all $# Debian packages are installed"
		return
	fi
	if ! is_debian_12_or_13; then
		say "this is $(os_release PRETTY_NAME): packages are installed on Debian 12 and 13 only."
		say "Continuing without installing. Needed packages, by their Debian names:"
		printf '    %s\n' "${missing[@]}"
		return
	fi
	say "installing Debian packages:"
	printf '    %s\n' "${missing[@]}"
	as_root apt-get update -q
	as_root env DEBIAN_FRONTEND=noninteractive \
		apt-get install -q -y --no-install-recommends -o DPkg::Lock::Timeout=300 "${missing[@]%%:*}"
}

# Packages needed to run ostler, one "NAME: why" per line.
engine_packages() {
	cat <<-'LIST'
		podman: runs the workspaces
		netavark: networks of containers
		aardvark-dns: DNS in those networks
		catatonit: the init process of every workspace
		busybox-static: the demo image is built from it
		curl: checks whether sockets answer, and downloads rustup if Rust is missing
		ca-certificates: verifies the servers that curl and cargo download from
	LIST
	# One runtime is enough. runc also works with hybrid cgroups.
	command -v crun >/dev/null || echo 'runc: starts containers'
	local rootless_network=passt firewall=nftables
	if [ "$(os_release VERSION_ID)" = 12 ]; then
		rootless_network=slirp4netns firewall=iptables
	fi
	echo "$firewall: used by netavark to set up forwarding"
	if ! is_root; then
		echo 'uidmap: user ids for rootless containers'
		echo "$rootless_network: the network of rootless containers"
	fi
}

build_packages() {
	cat <<-'LIST'
		gcc: compiles the bundled SQLite, and links the binary
		libc6-dev: headers for gcc
		make: builds the bundled allocator
	LIST
}

# ---- Rust --------------------------------------------------------------------------------------------

# The oldest supported Rust version, read from Cargo.toml.
wanted_rust() { sed -n 's/^rust-version *= *"\(.*\)"$/\1/p' "$ROOT/Cargo.toml"; }

# is_at_least WANTED FOUND: compares versions.
is_at_least() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; }

# Prints cargo's version, such as "1.95.0"; nothing if there is no cargo.
found_rust() { as_builder cargo --version 2>/dev/null | sed -n 's/^cargo \([0-9.]*\).*/\1/p' || true; }

# ensure_rust [COMPONENT...]
ensure_rust() {
	local wanted found component missing=()
	wanted=$(wanted_rust)
	found=$(found_rust)
	if is_at_least "$wanted" "${found:-0}"; then
		say "cargo $found is installed ($wanted or newer is required)"
	else
		say "cargo is ${found:-missing}: $wanted or newer is required"
		run_rustup
		found=$(found_rust)
		is_at_least "$wanted" "${found:-0}" || die \
			"cargo is '${found:-missing}' after rustup ran, but $wanted or newer is required" \
			"rustup toolchain install stable && rustup default stable"
	fi
	for component in "$@"; do
		has_rust_component "$component" || missing+=("$component")
	done
	[ ${#missing[@]} -eq 0 ] || add_rust_components "${missing[@]}"
}

has_rust_component() {
	local program=$1
	[ "$1" != clippy ] || program=cargo-clippy
	as_builder "$program" --version >/dev/null 2>&1
}

run_rustup() {
	say "installing Rust with rustup from https://rustup.rs (sh.rustup.rs), for $(builder), in ~/.cargo"
	say "(shell profiles are not changed; to add cargo to your PATH: . ~/.cargo/env)"
	# rustup's path check would fail because of Debian's older cargo, which may stay installed.
	curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs |
		as_builder env RUSTUP_INIT_SKIP_PATH_CHECK=yes sh -s -- -y --no-modify-path \
			--profile minimal --default-toolchain stable
}

add_rust_components() {
	say "adding Rust components: $*"
	as_builder rustup component add "$@" || die \
		"Rust components are missing and rustup could not add them: $*" "install them for this cargo, then run this again"
}

# ---- paths -------------------------------------------------------------------------------------------

# ostler's data directory, with the same default as in ostler itself.
data_dir() { printf '%s\n' "${OSTLER_DATA_DIR:-${XDG_DATA_HOME:-$HOME/.local/share}/ostler}"; }

# quickstart's files: logs, pid files and, if needed, containers.conf.
state_dir() { printf '%s/quickstart\n' "$(data_dir)"; }

# The Podman socket to use: from the environment, else Podman's default.
engine_socket() {
	local named=${OSTLER_ENGINE_SOCKET:-${CONTAINER_HOST:-}}
	case $named in
	'') if is_root; then echo /run/podman/podman.sock; else echo "$XDG_RUNTIME_DIR/podman/podman.sock"; fi ;;
	unix://*) printf '%s\n' "${named#unix://}" ;;
	/*) printf '%s\n' "$named" ;;
	*) die "the Podman socket '$named' is not a path" "set OSTLER_ENGINE_SOCKET to a local socket: unix:///path" ;;
	esac
}

is_socket_named() { [ -n "${OSTLER_ENGINE_SOCKET:-${CONTAINER_HOST:-}}" ]; }

# ---- background processes ----------------------------------------------------------------------------

# start_time_of PID: prints the start time. Pid and start time together identify a process; the kernel reuses pids.
start_time_of() {
	local stat fields
	stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
	# The second field, the name in brackets, may contain spaces and brackets. Count the fields after it.
	read -r -a fields <<<"${stat##*) }"
	[ "${fields[0]}" != Z ] || return 1
	printf '%s\n' "${fields[19]}"
}

# background_pid NAME: prints the pid, if the process that start_background started still runs.
background_pid() {
	local pid started
	read -r pid started 2>/dev/null <"$(state_dir)/$1.pid" || return 1
	# The start time is empty if the process ended before it could be read.
	[ -n "$started" ] || return 1
	[ "$(start_time_of "$pid")" = "$started" ] || return 1
	printf '%s\n' "$pid"
}

# start_background NAME COMMAND...: runs in its own session, so that it survives the end of this terminal.
start_background() {
	local name=$1 state pid
	shift
	state=$(state_dir)
	setsid "$@" </dev/null >>"$state/$name.log" 2>&1 9>&- &
	pid=$!
	printf '%s %s\n' "$pid" "$(start_time_of "$pid")" >"$state/$name.pid"
}

# stop_background NAME: signals the pid only if it is still the same process.
stop_background() {
	local name=$1 pid
	if ! pid=$(background_pid "$name"); then
		rm -f "$(state_dir)/$name.pid"
		return 1
	fi
	kill -TERM "$pid"
	if ! wait_until 30 is_ended "$name"; then
		say "$name (pid $pid) did not exit within 30 s: killing it"
		kill -KILL "$pid"
	fi
	rm -f "$(state_dir)/$name.pid"
	say "stopped $name (pid $pid)"
}

is_ended() { ! background_pid "$1" >/dev/null; }

# wait_until SECONDS COMMAND...: repeats COMMAND until it succeeds; fails after SECONDS.
wait_until() {
	local deadline=$((SECONDS + $1))
	shift
	until "$@"; do
		[ "$SECONDS" -lt "$deadline" ] || return 1
		sleep 0.2
	done
}

# ---- Podman ------------------------------------------------------------------------------------------

# podman_at SOCKET ARGUMENT...: runs podman over this socket, so that it uses the same Podman service as ostler.
podman_at() {
	local socket=$1
	shift
	timeout 120 podman --remote --url "unix://$socket" "$@"
}

# Uses the socket from the environment if there is one, else the local Podman.
podman_here() {
	if is_socket_named; then
		podman_at "$(engine_socket)" "$@"
	else
		podman "$@"
	fi
}

answers_ping() { [ "$(curl -s -m 5 --unix-socket "$1" http://d/_ping 2>/dev/null)" = OK ]; }

answers_or_ended() { answers_ping "$1" || is_ended podman; }

# start_podman_service SOCKET [CONTAINERS_CONF]
start_podman_service() {
	local socket=$1 conf=${2:-}
	(umask 077 && mkdir -p "$(dirname "$socket")")
	start_background podman env ${conf:+CONTAINERS_CONF="$conf"} podman system service --time=0 "unix://$socket"
	# Stop waiting if the process has ended.
	wait_until 30 answers_or_ended "$socket" || :
	answers_ping "$socket" || die \
		"podman system service does not answer on $socket: $(tail -n 3 "$(state_dir)/podman.log")" \
		"read $(state_dir)/podman.log"
	say "started podman system service on $socket (log: $(state_dir)/podman.log)"
	[ -z "$conf" ] || say "the service uses $conf"
}

# probe_podman SOCKET IMAGE: runs a container with ostler's options (init, limits, its own network) and removes it.
# Prints Podman's error if that fails.
probe_podman() {
	local socket=$1 image=$2 name="quickstart-probe-$$" status=0
	podman_at "$socket" network create "$name" >/dev/null &&
		podman_at "$socket" run --rm --name "$name" --network "$name" --init --memory 64m --pids-limit 64 \
			"$image" /bin/true || status=$?
	podman_at "$socket" rm --force --time 0 "$name" >/dev/null 2>&1 || true
	podman_at "$socket" network rm "$name" >/dev/null 2>&1 || true
	return "$status"
}

# write_containers_conf FILE: for machines where Podman's defaults cannot run a container: nested containers, root that
# may not raise limits, hybrid cgroups, no systemd.
write_containers_conf() {
	mkdir -p "$(dirname "$1")"
	{
		cat <<-'CONF'
			# Written by ostler's quickstart because Podman cannot run a container here with its defaults. Only the
			# Podman service that ostler uses reads it (CONTAINERS_CONF). Delete it when the defaults work.
			[engine]
			# crun does not support hybrid cgroups.
			runtime = "runc"
			# Without systemd there is no cgroup manager and no journal for events.
			cgroup_manager = "cgroupfs"
			events_logger = "file"
			[network]
			network_backend = "netavark"
		CONF
		if is_root; then
			cat <<-'CONF'
				[containers]
				# Root without CAP_SYS_RESOURCE cannot raise limits to Podman's defaults.
				default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
			CONF
		fi
	} >"$1"
}
