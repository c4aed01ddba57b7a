#!/usr/bin/env bash
# The benchmark: the same cells through forklab, evcxr_jupyter and ipykernel, and the floors beside
# them. Prints a table in Markdown and judges nothing.
#
#   tests/bench/run.sh [--prefix DIR] [OPTION...]
#
#   --prefix DIR    the kernel that is installed below DIR, instead of the present tree's
#   --kernels A,B   of forklab, forklab-cold, evcxr, ipykernel; ratios are of the first to the others
#   --only NAME...  of starts, cells, process, completion, output, responsive, fork, compiler, growth,
#                   memory, checkpoint, state
#   --repeats N     how often each thing is measured (5)
#   --beside N      how many kernels stand beside each other for their memory (5)
#   --patience S    how long to wait before a sample while others use the machine (0)
#   --json FILE     every sample
#   --short         each thing once, without evcxr_jupyter: whether it runs
#
# evcxr_jupyter is installed into target/bench when it is needed, which takes minutes once.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.."
# shellcheck source=tests/outside.sh
. tests/outside.sh

readonly evcxr_version=0.22.0
readonly tools=$build_directory/bench

prefix=
arguments=()
with_evcxr=yes
expects_kernels=no
while (($# > 0)); do
    if [[ $expects_kernels == yes || $1 == --kernels=* ]]; then
        [[ $1 == *evcxr* ]] || with_evcxr=no
        expects_kernels=no
    fi
    case $1 in
        --prefix) prefix=$(realpath -- "$2") && shift 2 && continue ;;
        --help | -h) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" && exit 0 ;;
        --kernels) expects_kernels=yes ;;
        --short) with_evcxr=no ;;
    esac
    arguments+=("$1")
    shift
done

prepare_evcxr() {
    local program=$tools/evcxr/bin/evcxr_jupyter
    if [[ ! -x $program ]]; then
        echo "installing evcxr_jupyter $evcxr_version into $tools" >&2
        CARGO_TARGET_DIR=$tools/build cargo install --locked --jobs 2 --version "$evcxr_version" --root "$tools/evcxr" evcxr_jupyter >&2
    fi
    mkdir -p -- "$work/jupyter/kernels/bench-evcxr"
    cat >"$work/jupyter/kernels/bench-evcxr/kernel.json" <<END
{"argv": ["$program", "--control_file", "{connection_file}"], "display_name": "evcxr", "language": "rust", "interrupt_mode": "message"}
END
    export JUPYTER_PATH=$JUPYTER_PATH:$work/jupyter FORKLAB_BENCH_EVCXR=$evcxr_version
}

# The floor, and the far side alone.
prepare_programs() {
    mkdir -p -- "$tools"
    rustc -O --edition 2024 -o "$tools/floor" tests/bench/floor.rs
    export FORKLAB_BENCH_FLOOR=$tools/floor
    cargo build --release --locked --package forklab-worker --bin forklab-far-side --example far_side_bench >&2
    export FORKLAB_BENCH_FAR_SIDE=$build_directory/release/examples/far_side_bench
}

prepare_python
prepare_kernel "$prefix"
# `forklab` is measured with a zygote and `forklab-cold` without. It is there before anything is measured, so
# that it warms up beside nothing.
trap '"$prefix/bin/forklab" warm --stop >&2 || true; rm -rf -- "$work"' EXIT
"$prefix/bin/forklab" warm >&2
[[ $with_evcxr == no ]] || prepare_evcxr
prepare_programs
export FORKLAB_BENCH_LIBRARY=$prefix/share/forklab/library/forklab
FORKLAB_BENCH_COMMIT=$(git describe --always --dirty 2>/dev/null || echo unknown)
[[ -z $prefix || $prefix == "$work"/* ]] || FORKLAB_BENCH_COMMIT="installed below a prefix, $("$prefix/bin/forklab" --version)"
export FORKLAB_BENCH_COMMIT
"$python" tests/bench/bench.py "${arguments[@]}"
