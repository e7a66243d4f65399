# shellcheck shell=bash
# What quickstart, check and the demo agent's build share: one way to do each thing.
#
# Sourced under `set -euo pipefail`. Functions that answer a question say nothing and return 0 or 1;
# functions named ensure_* look first, say what they change and why, and change nothing the second time.
# Every tool is looked up on PATH, so a test can stand in for it (packaging/test-lib).

# shellcheck disable=SC2034 # read by the scripts that source this page
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
DEMO_IMAGE=${QUICKSTART_IMAGE:-localhost/ostler-demo-agent:latest}

# ---- talking -----------------------------------------------------------------------------------------

say() { printf '  %s\n' "$*"; }
step() { printf '\n==> %s\n' "$*"; }

# die WHAT [WHAT_TO_DO_NEXT...]
die() {
	printf '\nerror: %s\n' "$1" >&2
	shift
	[ $# -eq 0 ] || printf '  next: %s\n' "$@" >&2
	exit 1
}

# ---- who we are --------------------------------------------------------------------------------------

is_root() { [ "$(id -u)" = 0 ]; }

# Only for what really needs it: packages, /dev/net/tun, /etc/subuid.
as_root() {
	if is_root; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo "$@"
	else
		die "this needs root and there is no sudo: $*" "run it as root, or install sudo and try again"
	fi
}

# The account that builds: whoever called sudo, so that neither root's cargo nor root-owned files in
# target/ come into a person's checkout.
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

# Cargo's own directory comes first: rustup installs there and touches no shell profile, and Debian's older
# cargo may stay where it is.
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

# Package names differ elsewhere; installing them there would be a guess.
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
		say "all $# Debian packages are there"
		return
	fi
	if ! is_debian_12_or_13; then
		say "this is $(os_release PRETTY_NAME), and packages are installed on Debian 12 and 13 only;"
		say "going on with what is here. Needed, by their names on Debian:"
		printf '    %s\n' "${missing[@]}"
		return
	fi
	say "installing Debian packages:"
	printf '    %s\n' "${missing[@]}"
	as_root apt-get update -q
	as_root env DEBIAN_FRONTEND=noninteractive \
		apt-get install -q -y --no-install-recommends -o DPkg::Lock::Timeout=300 "${missing[@]%%:*}"
}

# What running and building ostler takes, one "NAME: why" a line.
engine_packages() {
	cat <<-'LIST'
		podman: runs the workspaces
		netavark: their networks
		aardvark-dns: names inside those networks
		catatonit: the init process of every workspace
		busybox-static: what the demo image is made of
		curl: asks sockets whether they answer, and fetches rustup where Rust is missing
		ca-certificates: lets curl and cargo trust whom they fetch from
	LIST
	# One runtime will do. runc, because it also works where cgroups are hybrid.
	command -v crun >/dev/null || echo 'runc: starts containers'
	local rootless_network=passt firewall=nftables
	if [ "$(os_release VERSION_ID)" = 12 ]; then
		rootless_network=slirp4netns firewall=iptables
	fi
	echo "$firewall: netavark sets up forwarding with it"
	if ! is_root; then
		echo 'uidmap: user ids for rootless containers'
		echo "$rootless_network: the network of rootless containers"
	fi
}

build_packages() {
	cat <<-'LIST'
		gcc: compiles the SQLite that ostler carries, and links
		libc6-dev: the headers gcc needs for that
		make: builds the allocator that ostler carries
	LIST
}

# ---- Rust --------------------------------------------------------------------------------------------

# The oldest Rust that may build this: Cargo.toml says it, and nothing else does.
wanted_rust() { sed -n 's/^rust-version *= *"\(.*\)"$/\1/p' "$ROOT/Cargo.toml"; }

# is_at_least WANTED FOUND
is_at_least() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; }

# "1.95.0", or nothing.
found_rust() { as_builder cargo --version 2>/dev/null | sed -n 's/^cargo \([0-9.]*\).*/\1/p' || true; }

# ensure_rust [COMPONENT...]
ensure_rust() {
	local wanted found component missing=()
	wanted=$(wanted_rust)
	found=$(found_rust)
	if is_at_least "$wanted" "${found:-0}"; then
		say "cargo $found is there ($wanted or newer is wanted)"
	else
		say "cargo is ${found:-missing}: $wanted or newer is wanted"
		run_rustup
		found=$(found_rust)
		is_at_least "$wanted" "${found:-0}" || die \
			"after rustup ran, cargo is '${found:-missing}', but $wanted or newer is wanted" \
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
	say "(no shell profile is changed; to have cargo on your PATH: . ~/.cargo/env)"
	# The path check would refuse because of Debian's older cargo, which stays and harms nobody.
	curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs |
		as_builder env RUSTUP_INIT_SKIP_PATH_CHECK=yes sh -s -- -y --no-modify-path \
			--profile minimal --default-toolchain stable
}

add_rust_components() {
	say "adding to Rust: $*"
	as_builder rustup component add "$@" || die \
		"cargo has no $*, and rustup could not add it" "install it beside cargo, then run this again"
}

# ---- where things are --------------------------------------------------------------------------------

# What ostler itself takes by default.
data_dir() { printf '%s\n' "${OSTLER_DATA_DIR:-${XDG_DATA_HOME:-$HOME/.local/share}/ostler}"; }

# What quickstart keeps there: logs, pid files and, where one is needed, containers.conf.
state_dir() { printf '%s/quickstart\n' "$(data_dir)"; }

# The Podman socket to use: the one that is named, else Podman's own default.
engine_socket() {
	local named=${OSTLER_ENGINE_SOCKET:-${CONTAINER_HOST:-}}
	case $named in
	'') if is_root; then echo /run/podman/podman.sock; else echo "$XDG_RUNTIME_DIR/podman/podman.sock"; fi ;;
	unix://*) printf '%s\n' "${named#unix://}" ;;
	/*) printf '%s\n' "$named" ;;
	*) die "the Podman socket '$named' is not a path" "ostler works with a local socket: unix:///path" ;;
	esac
}

is_socket_named() { [ -n "${OSTLER_ENGINE_SOCKET:-${CONTAINER_HOST:-}}" ]; }

# ---- processes in the background ---------------------------------------------------------------------

# start_time_of PID: with the pid this is one process of all time; a pid alone is soon somebody else's.
start_time_of() {
	local stat fields
	stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
	# The second field is the name, in brackets, and may hold spaces and brackets: count from behind it.
	read -r -a fields <<<"${stat##*) }"
	[ "${fields[0]}" != Z ] || return 1
	printf '%s\n' "${fields[19]}"
}

# background_pid NAME: the pid, if what start_background started still runs.
background_pid() {
	local pid started
	read -r pid started 2>/dev/null <"$(state_dir)/$1.pid" || return 1
	# One that ended before its start could be noted is no process, and no process has no start either.
	[ -n "$started" ] || return 1
	[ "$(start_time_of "$pid")" = "$started" ] || return 1
	printf '%s\n' "$pid"
}

# start_background NAME COMMAND...: in a session of its own, so that it outlives this terminal.
start_background() {
	local name=$1 state pid
	shift
	state=$(state_dir)
	setsid "$@" </dev/null >>"$state/$name.log" 2>&1 9>&- &
	pid=$!
	printf '%s %s\n' "$pid" "$(start_time_of "$pid")" >"$state/$name.pid"
}

# stop_background NAME: by its own pid, and only if that is still the same process.
stop_background() {
	local name=$1 pid
	if ! pid=$(background_pid "$name"); then
		rm -f "$(state_dir)/$name.pid"
		return 1
	fi
	kill -TERM "$pid"
	if ! wait_until 30 is_ended "$name"; then
		say "$name (pid $pid) did not end within 30 s: killing it"
		kill -KILL "$pid"
	fi
	rm -f "$(state_dir)/$name.pid"
	say "stopped $name (pid $pid)"
}

is_ended() { ! background_pid "$1" >/dev/null; }

# wait_until SECONDS COMMAND...
wait_until() {
	local deadline=$((SECONDS + $1))
	shift
	until "$@"; do
		[ "$SECONDS" -lt "$deadline" ] || return 1
		sleep 0.2
	done
}

# ---- Podman ------------------------------------------------------------------------------------------

# podman_at SOCKET ARGUMENT...: what ostler will see is what is asked here, so it is asked over the socket.
podman_at() {
	local socket=$1
	shift
	timeout 120 podman --remote --url "unix://$socket" "$@"
}

# Over the named socket, else plainly.
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
	# One that ended by itself, or could not begin, will not answer later.
	wait_until 30 answers_or_ended "$socket" || :
	answers_ping "$socket" || die \
		"podman system service does not answer on $socket: $(tail -n 3 "$(state_dir)/podman.log")" \
		"read $(state_dir)/podman.log"
	say "started podman system service on $socket (log: $(state_dir)/podman.log)"
	[ -z "$conf" ] || say "with $conf"
}

# probe_podman SOCKET IMAGE: really runs a container as ostler would (init, limits, a network of its own) and
# takes it away again. What went wrong is printed.
probe_podman() {
	local socket=$1 image=$2 name="quickstart-probe-$$" status=0
	podman_at "$socket" network create "$name" >/dev/null &&
		podman_at "$socket" run --rm --name "$name" --network "$name" --init --memory 64m --pids-limit 64 \
			"$image" /bin/true || status=$?
	podman_at "$socket" rm --force --time 0 "$name" >/dev/null 2>&1 || true
	podman_at "$socket" network rm "$name" >/dev/null 2>&1 || true
	return "$status"
}

# write_containers_conf FILE: for machines where Podman's defaults cannot run a container: nested ones, with
# root that may not raise limits, with hybrid cgroups, without systemd.
write_containers_conf() {
	mkdir -p "$(dirname "$1")"
	{
		cat <<-'CONF'
			# Written by ostler because Podman cannot run a container here with its defaults. Named by
			# CONTAINERS_CONF for the Podman service that ostler uses, and for nothing else. Delete it once the
			# defaults work.
			[engine]
			# crun refuses hybrid cgroups.
			runtime = "runc"
			# No systemd to ask for cgroups, and no journal to write events to.
			cgroup_manager = "cgroupfs"
			events_logger = "file"
			[network]
			network_backend = "netavark"
		CONF
		if is_root; then
			cat <<-'CONF'
				[containers]
				# Root without CAP_SYS_RESOURCE cannot raise limits to the usual defaults.
				default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
			CONF
		fi
	} >"$1"
}
