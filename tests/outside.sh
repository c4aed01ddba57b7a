# What tests/bench/run.sh and tests/soak/run.sh need before they begin. To be sourced, from the
# repository's root, with `set -euo pipefail`. They stand outside the test run.
# shellcheck shell=bash

build_directory=${CARGO_TARGET_DIR:-$PWD/target}
# The test run's own, so that it is made once.
venv=$build_directory/test-venv
python=$venv/bin/python

prepare_python() {
    local mark=$venv/requirements.txt
    cmp -s -- tests/requirements.txt "$mark" && return 0
    echo "making $venv" >&2
    rm -rf -- "$venv"
    python3 -m venv "$venv"
    "$python" -m pip install --quiet --disable-pip-version-check --requirement tests/requirements.txt
    cp -- tests/requirements.txt "$mark"
}

# prepare_kernel [PREFIX]: an installed kernel below PREFIX, or, without one, the present tree built
# and installed below a prefix that is thrown away. Everything that a kernel writes goes below $work.
prepare_kernel() {
    prefix=${1:-}
    # Short: the path of a UNIX socket has 107 bytes.
    work=$(mktemp -d /tmp/flo.XXXXXX)
    trap 'rm -rf -- "$work"' EXIT
    mkdir -- "$work/tmp"
    if [[ -z $prefix ]]; then
        cargo build --release --locked --package forklab-server >&2
        prefix=$work/prefix
        "$build_directory/release/forklab" install --prefix "$prefix" >&2
    fi
    export TMPDIR=$work/tmp PYTHONDONTWRITEBYTECODE=1
    export JUPYTER_PATH=$prefix/share/jupyter JUPYTER_DATA_DIR=$work/data JUPYTER_CONFIG_DIR=$work/config
    export JUPYTER_RUNTIME_DIR=$work/runtime IPYTHONDIR=$work/ipython
    export RUST_LOG=${RUST_LOG:-forklab_server=warn}
    unset NBGRADER_EXECUTION RUST_BACKTRACE VIRTUAL_ENV CONDA_PREFIX
}
