#!/usr/bin/env bash
# The crates' one direction, as docs/ARCHITECTURE.md has it. Each rule is checked from both sides:
# what must not be there, and something beside it that must, so that a misspelt name is not a success.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

failed=0

# uses CRATE NAME...: the crate depends on each of them, directly or not.
# avoids CRATE NAME...: and on none of these.
tree() { cargo tree --offline --locked --edges normal --prefix none --package "$1" --format '{p}' | cut -d' ' -f1 | sort -u; }
uses() { rule yes "$@"; }
avoids() { rule no "$@"; }
rule() {
    local expected=$1 crate=$2 found name
    local names
    names=$(tree "$crate")
    for name in "${@:3}"; do
        found=no
        grep -qx -- "$name" <<<"$names" && found=yes
        if [[ $found != "$expected" ]]; then
            printf 'layering: %s %s %s\n' "$crate" "$([[ $expected == yes ]] && echo "does not use" || echo "must not use")" "$name" >&2
            failed=1
        fi
    done
}

uses forklab-sys nix
avoids forklab-sys forklab forklab-worker forklab-engine forklab-server evcxr zmq jupyter-protocol
uses forklab-record serde
avoids forklab-record forklab-sys forklab forklab-worker forklab-engine forklab-server nix evcxr zmq jupyter-protocol
uses forklab forklab-sys forklab-record serde
avoids forklab forklab-worker forklab-engine forklab-server evcxr zmq jupyter-protocol
uses forklab-worker forklab-sys forklab-record
avoids forklab-worker forklab forklab-engine forklab-server evcxr zmq jupyter-protocol
uses forklab-engine forklab-sys evcxr
avoids forklab-engine forklab forklab-worker forklab-server zmq jupyter-protocol
uses forklab-server forklab-sys forklab-record forklab-worker forklab-engine zmq jupyter-protocol
avoids forklab-server forklab

# All `unsafe` of ours lives in kernel/sys: nobody else lifts the workspace's ban. (Tests and examples
# may: some of them are cells, and cells call fork.)
lifted=$(grep -rlE 'allow\(.*unsafe_code' kernel/*/src | grep -v '^kernel/sys/' || true)
if [[ -n $lifted ]]; then
    printf 'layering: unsafe code is allowed outside kernel/sys:\n%s\n' "$lifted" >&2
    failed=1
fi
grep -q 'allow(unsafe_code)' kernel/sys/src/lib.rs
grep -q 'unsafe_code = "deny"' Cargo.toml
for manifest in kernel/*/Cargo.toml; do
    grep -A1 -x '\[lints\]' "$manifest" | grep -qx 'workspace = true' || {
        printf 'layering: %s does not take the workspace'\''s lints\n' "$manifest" >&2
        failed=1
    }
done
exit "$failed"
