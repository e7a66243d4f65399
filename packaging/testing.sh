# shellcheck shell=bash
# Shared by the tests of the shell scripts. A test is a function named rule_*. run_tests runs each test in its own
# process and directory. Its PATH holds standard tools and the fake programs that the test creates.

# shellcheck source=packaging/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# stand_in NAME BODY: creates a fake program for the code under test; every call is appended to $CALLS.
stand_in() {
	# Remove a symlink first: writing through it would replace the machine's own program.
	/bin/rm -f "$BIN/$1"
	printf '#!/bin/bash\necho "%s $*" >>"%s"\n%s\n' "$1" "$CALLS" "$2" >"$BIN/$1"
	/bin/chmod +x "$BIN/$1"
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

# run_tests [RULE]: runs all tests, or one. Each runs in its own process. A subshell inside a condition would not work:
# bash ignores `set -e` there.
run_tests() {
	if [ $# -gt 0 ]; then
		run_one "rule_$1"
		return
	fi
	local rule failed=0 count=0 output
	for rule in $(compgen -A function rule_); do
		count=$((count + 1)) rule=${rule#rule_}
		if output=$("$0" "$rule" 2>&1 </dev/null); then
			printf 'ok   %s\n' "$rule"
		else
			printf 'FAIL %s\n%s\n' "$rule" "$(printf '%s\n' "$output" | sed 's/^/     /')"
			failed=$((failed + 1))
		fi
	done
	printf '%s: %d tests, %d failed\n' "$(basename "$0")" "$count" "$failed"
	[ "$failed" -eq 0 ]
}

run_one() {
	SCRATCH=$(mktemp -d)
	BIN=$SCRATCH/bin CALLS=$SCRATCH/calls
	trap clean_up_one EXIT
	mkdir -p "$BIN" "$SCRATCH/home"
	: >"$CALLS"
	export HOME=$SCRATCH/home PATH=$BIN:/usr/sbin:/usr/bin:/sbin:/bin
	unset CARGO_HOME SUDO_USER CONTAINER_HOST CONTAINERS_CONF "${!OSTLER_@}" "${!QUICKSTART_@}"
	"$1"
}

clean_up_one() {
	! declare -F after_each >/dev/null || after_each
	/bin/rm -rf "$SCRATCH" # absolute path: a test may have replaced PATH
}
