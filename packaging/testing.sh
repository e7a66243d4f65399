# shellcheck shell=bash
# What the tests of the shell parts share. A test is a function named after its rule; run_tests runs each in a
# shell and a directory of its own, with nothing of this machine on its PATH but plain tools and the stand-ins
# it makes itself.

# shellcheck source=packaging/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# stand_in NAME BODY: a program of that name for the code under test; every call is noted in $CALLS.
stand_in() {
	# Never through a link: writing to one would replace the machine's own program.
	rm -f "$BIN/$1"
	printf '#!/bin/bash\necho "%s $*" >>"%s"\n%s\n' "$1" "$CALLS" "$2" >"$BIN/$1"
	chmod +x "$BIN/$1"
}

fail() {
	printf 'FAILED: %s\n' "$1" >&2
	[ $# -lt 2 ] || printf '%s\n' "$2" | sed 's/^/    /' >&2
	exit 1
}

# expect_in TEXT PART / expect_not_in TEXT PART
expect_in() { case $1 in *"$2"*) ;; *) fail "expected to find: $2" "$1" ;; esac; }
expect_not_in() { case $1 in *"$2"*) fail "expected not to find: $2" "$1" ;; esac; }
expect_equal() { [ "$1" = "$2" ] || fail "expected '$2', found '$1'"; }

calls() { cat "$CALLS"; }

run_tests() {
	local test failed=0 count=0 output
	for test in $(compgen -A function | grep '^rule_'); do
		count=$((count + 1))
		if output=$(run_one "$test" 2>&1); then
			printf 'ok   %s\n' "${test#rule_}"
		else
			printf 'FAIL %s\n%s\n' "${test#rule_}" "$(printf '%s\n' "$output" | sed 's/^/     /')"
			failed=$((failed + 1))
		fi
	done
	printf '%s: %d tests, %d failed\n' "$(basename "$0")" "$count" "$failed"
	[ "$failed" -eq 0 ]
}

run_one() (
	set -euo pipefail
	SCRATCH=$(mktemp -d)
	# shellcheck disable=SC2317 # called by the trap
	clean_up() {
		if declare -F after_each >/dev/null; then after_each; fi
		/bin/rm -rf "$SCRATCH" # a test may have left nothing else on PATH
	}
	trap clean_up EXIT
	BIN=$SCRATCH/bin CALLS=$SCRATCH/calls
	mkdir -p "$BIN" "$SCRATCH/home"
	: >"$CALLS"
	export HOME=$SCRATCH/home PATH=$BIN:/usr/sbin:/usr/bin:/sbin:/bin
	unset CARGO_HOME SUDO_USER OSTLER_DATA_DIR OSTLER_ENGINE_SOCKET CONTAINER_HOST CONTAINERS_CONF QUICKSTART_OSTLER
	"$1"
)
