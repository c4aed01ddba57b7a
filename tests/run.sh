#!/usr/bin/env bash
# Sets up and runs every test there is. Its last line is `N passed, N failed`; its exit status is 0
# when nothing failed.
#
#   tests/run.sh            everything
#   tests/run.sh --quick    without the browser
#   tests/run.sh STEP...    only these steps: format layering lint rust kernel abuse lessons install lab bench leftovers
#
# Everything is built in target/, installed below a prefix that is thrown away, and served on 127.0.0.1.
# shellcheck disable=SC2317  # some functions are called by a trap or by another bash
set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
readonly root
cd -- "$root"
exec </dev/null

readonly build_directory=${CARGO_TARGET_DIR:-$root/target}
readonly venv=$build_directory/test-venv
readonly python=$venv/bin/python

readonly all_steps=(format layering lint rust kernel abuse lessons install lab bench leftovers)

passed=0
failed=0
steps=()
quick=no
finished=no
running=
began=$SECONDS

read_arguments() {
    local argument
    for argument in "$@"; do
        case $argument in
            --quick) quick=yes ;;
            --help | -h) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" && exit 0 ;;
            -*) echo "tests/run.sh: unknown option $argument" >&2 && exit 2 ;;
            *) steps+=("$argument") ;;
        esac
    done
    for argument in "${steps[@]}"; do
        [[ " ${all_steps[*]} " == *" $argument "* ]] ||
            { echo "tests/run.sh: no step $argument; there are: ${all_steps[*]}" >&2 && exit 2; }
    done
    ((${#steps[@]} > 0)) || steps=("${all_steps[@]}")
}

# --- steps --------------------------------------------------------------------------------------

# step NAME LIMIT COMMAND...: runs a command for at most LIMIT seconds and counts what it reports:
# the results of cargo's and pytest's tests where there are any, otherwise itself as one.
step() {
    local name=$1 limit=$2 log=$work/$1.log status=0 start=$SECONDS good bad
    shift 2
    printf '\n=== %s\n' "$name"
    # Not through a pipe: a process that a step leaves behind would keep it open, and us waiting.
    : >"$log"
    timeout --kill-after=20 "$limit" "$@" >"$log" 2>&1 &
    running=$!
    tail --pid=$running --sleep-interval=0.2 --lines=+1 --follow -- "$log" 2>/dev/null || true
    wait "$running" || status=$?
    running=
    ((status != 124 && status != 137)) || printf '%s: not done after %s s\n' "$name" "$limit"
    read -r good bad < <(count "$log")
    if ((good + bad == 0)); then
        ((status == 0)) && good=1
    fi
    # A step that failed without a failed test (a build that broke, a crash) is a failure as well.
    ((status == 0 || bad > 0)) || bad=1
    passed=$((passed + good))
    failed=$((failed + bad))
    printf -- '--- %s: %d passed, %d failed, %d s\n' "$name" "$good" "$bad" "$((SECONDS - start))"
}

# Passed and failed tests in a log: cargo's `test result:` lines and pytest's last line.
count() {
    awk '
        /^test result: / { good += $4; bad += $6 }
        /^[0-9]+ (passed|failed|error|skipped|deselected|warning).* in [0-9.]+s/ {
            for (i = 2; i <= NF; i++) {
                if ($i ~ /^passed/) good += $(i - 1)
                if ($i ~ /^(failed|error)/) bad += $(i - 1)
            }
        }
        END { print good + 0, bad + 0 }' "$1"
}

wanted() {
    local step
    for step in "${steps[@]}"; do
        [[ $step == "$1" ]] && return 0
    done
    return 1
}

pytest() { # NAME LIMIT FILE...
    local name=$1 limit=$2
    shift 2
    step "$name" "$limit" "$python" -m pytest --rootdir tests -c tests/pytest.ini --color=no -q "${@/#/tests/}"
}

# --- preparing ----------------------------------------------------------------------------------

prepare_packages() {
    local missing=()
    { command -v cc && command -v pkg-config; } >/dev/null || missing+=(gcc libc6-dev pkg-config)
    pkg-config --exists libzmq 2>/dev/null || missing+=(libzmq3-dev)
    { command -v ps && command -v top; } >/dev/null || missing+=(procps)
    { command -v lscpu && command -v setsid; } >/dev/null || missing+=(util-linux)
    python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3 python3-venv)
    if wanted lab && [[ $quick == no ]] && ! command -v chromium chromium-browser google-chrome >/dev/null; then
        missing+=(chromium)
    fi
    ((${#missing[@]} > 0)) || return 0
    echo "installing ${missing[*]}"
    local as_root=()
    ((EUID == 0)) || as_root=(sudo -n)
    "${as_root[@]}" apt-get update -qq || true
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

prepare_python() {
    local mark=$venv/requirements.txt
    cmp -s -- tests/requirements.txt "$mark" && return 0
    echo "making $venv"
    rm -rf -- "$venv"
    python3 -m venv "$venv"
    "$python" -m pip install --quiet --disable-pip-version-check --requirement tests/requirements.txt
    cp -- tests/requirements.txt "$mark"
}

# Everything that a test or a kernel writes goes below $work, and every process of ours carries the
# mark in its environment, by which it is found at the end.
prepare_environment() {
    # Short: the path of a UNIX socket has 107 bytes.
    work=$(mktemp -d /tmp/flt.XXXXXX)
    readonly work
    trap 'rm -rf -- "$work"; unfinished' EXIT
    mkdir -- "$work/tmp" "$work/pytest"
    export FORKLAB_TEST_PREFIX=$work/prefix
    export PATH="$venv/bin:$PATH" TMPDIR=$work/tmp PYTEST_DEBUG_TEMPROOT=$work/pytest PYTHONDONTWRITEBYTECODE=1
    export JUPYTER_PATH=$FORKLAB_TEST_PREFIX/share/jupyter JUPYTER_DATA_DIR=$work/data
    export JUPYTER_CONFIG_DIR=$work/config JUPYTER_RUNTIME_DIR=$work/runtime IPYTHONDIR=$work/ipython
    FORKLAB_TEST_RUN=$(cat /proc/sys/kernel/random/uuid)
    # A zygote outlives its kernels; the tests that are about it switch it on.
    export FORKLAB_TEST_RUN FORKLAB_ZYGOTE=off
    unset NBGRADER_EXECUTION RUST_BACKTRACE VIRTUAL_ENV CONDA_PREFIX
}

# A run that stops before its end has failed, and says so in its last line as well.
unfinished() {
    # A step has a process group of its own, which `timeout` ends for us.
    [[ -z $running ]] || kill "$running" 2>/dev/null || true
    [[ $finished == yes ]] || printf '\nstopped before the end\n%d passed, %d failed\n' "$passed" "$((failed + 1))"
}

build() {
    cargo build --release --locked --package forklab-server
}

# --- what no other step sees --------------------------------------------------------------------

# Processes and runtime directories that should be gone: waits for them a little, then names them.
leftovers() {
    "$python" - <<'END'
import os, sys, time
from pathlib import Path

mark = f"FORKLAB_TEST_RUN={os.environ['FORKLAB_TEST_RUN']}".encode()


def ancestors():
    pid, found = os.getpid(), set()
    while pid:
        found.add(pid)
        pid = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    return found


def left():
    found, ours = {}, ancestors()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # The run's own `tail` shows the log of this step.
            if int(folder.name) in ours or (folder / "comm").read_text() == "tail\n":
                continue
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                found[folder.name] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            pass
    return found


deadline = time.monotonic() + 5
while left() and time.monotonic() < deadline:
    time.sleep(0.05)
directories = list(Path(os.environ["TMPDIR"]).glob("forklab-*"))
for pid, command in left().items():
    print(f"left behind: process {pid}: {command}")
for directory in directories:
    print(f"left behind: {directory}")
sys.exit(bool(left() or directories))
END
}

main() {
    read_arguments "$@"
    trap unfinished EXIT
    printf '=== preparing\n'
    prepare_packages
    prepare_python
    prepare_environment
    export -f leftovers build
    export python
    ! wanted format || step format 120 cargo fmt --all --check
    ! wanted layering || step layering 120 tests/layering.sh
    step build 2400 bash -c build
    ! wanted lint || step lint 1800 cargo clippy --release --locked --workspace --all-targets -- -D warnings
    ! wanted rust || step rust 2400 cargo test --release --locked --workspace --no-fail-fast
    step template 600 "$build_directory/release/forklab" install --prefix "$FORKLAB_TEST_PREFIX"
    ! wanted kernel || pytest kernel 1200 test_jupyter.py test_contracts.py
    ! wanted abuse || pytest abuse 600 test_abuse.py
    ! wanted lessons || pytest lessons 1200 test_notebooks.py
    ! wanted install || pytest install 900 test_install.py
    if wanted lab && [[ $quick == no ]]; then
        pytest lab 600 test_lab.py
    fi
    # Whether it measures; what it measures is not judged. It has a zygote of its own, and ends it.
    ! wanted bench || step bench 900 env --unset=FORKLAB_ZYGOTE tests/bench/run.sh --prefix "$FORKLAB_TEST_PREFIX" --short
    ! wanted leftovers || step leftovers 60 bash -c leftovers
    finished=yes
    printf '\n%d s\n%d passed, %d failed\n' "$((SECONDS - began))" "$passed" "$failed"
    ((failed == 0)) || exit 1
}

# On one line, so that nobody who edits this file while it runs adds to what runs.
main "$@"; exit
