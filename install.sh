#!/usr/bin/env bash
# Installs forklab: what is missing on the machine, the kernel, its kernelspec; then runs a lesson.
# `./install.sh --help` says the rest. Run again, it does only what is missing or has changed.
set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
readonly root
readonly lesson="$root/notebooks/04-dos-hijos.ipynb"
# Python packages of our own, when the machine has no Jupyter: never into the system's Python (PEP 668).
readonly own_jupyter="${XDG_DATA_HOME:-$HOME/.local/share}/forklab-jupyter"
readonly own_mark="$own_jupyter/made-by-forklab"
readonly oldest_rust=95

target=(--user)
action=install
run_lesson=yes
open_lab=no
prefix_path=

usage() {
    cat <<'END'
Usage: ./install.sh [where] [options]

Builds forklab and installs the Jupyter kernel "Rust (forklab)".

Where:
  --user          for yourself, below ~/.local (the default)
  --sys-prefix    into the Python environment that your jupyter belongs to
  --prefix DIR    below DIR: DIR/bin, DIR/share/forklab, DIR/share/jupyter

Options:
  --no-run        do not run lesson 4 at the end
  --lab           at the end, open JupyterLab on the lessons
  --uninstall     remove what was installed there
  --help          this text

Needs Rust and Python 3. On Debian and Ubuntu it installs what else is missing, with sudo.
The first build takes 4 to 12 minutes, and some 3 GB of disk.
END
}

say() { printf '\n==> %s\n' "$*"; }
note() { printf '    %s\n' "$*"; }
fail() {
    printf '\ninstall.sh: %s\n' "$1" >&2
    shift
    (($# == 0)) || printf '  -> %s\n' "$@" >&2
    exit 1
}

read_arguments() {
    while (($# > 0)); do
        case $1 in
            --user | --sys-prefix) target=("$1") ;;
            --prefix)
                (($# > 1)) || fail "--prefix needs a directory" "./install.sh --prefix DIR"
                prefix_path=$2
                shift
                ;;
            --prefix=*) prefix_path=${1#--prefix=} ;;
            --no-run) run_lesson=no ;;
            --lab) open_lab=yes ;;
            --uninstall) action=uninstall ;;
            --help | -h) usage && exit 0 ;;
            *) fail "unknown option: $1" "./install.sh --help lists them" ;;
        esac
        shift
    done
    if [[ -n $prefix_path ]]; then
        # A relative directory is meant from where the person stands.
        prefix_path=$(realpath --canonicalize-missing -- "$prefix_path")
        target=(--prefix "$prefix_path")
    fi
}

# --- what the machine must have -----------------------------------------------------------------

find_rust() {
    say "Rust"
    # rustup writes its directory into files that only a new shell reads.
    if ! command -v cargo >/dev/null && [[ -x ${CARGO_HOME:-$HOME/.cargo}/bin/cargo ]]; then
        PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
    fi
    local version
    if ! version=$(rustc --version 2>/dev/null) || ! cargo --version >/dev/null 2>&1; then
        fail "Rust was not found" \
            "install it: curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh" \
            "then open a new shell and run ./install.sh again"
    fi
    if [[ $version =~ ^rustc\ ([0-9]+)\.([0-9]+) ]] &&
        ((BASH_REMATCH[1] == 1 && BASH_REMATCH[2] < oldest_rust)); then
        fail "$version is too old, 1.$oldest_rust or newer is needed" "rustup update stable"
    fi
    note "$version"
}

# The Debian packages that are missing, one a line.
missing_packages() {
    { command -v cc && command -v pkg-config; } >/dev/null 2>&1 || printf '%s\n' gcc libc6-dev pkg-config
    pkg-config --exists libzmq 2>/dev/null || printf '%s\n' libzmq3-dev pkg-config
    { command -v ps && command -v top; } >/dev/null 2>&1 || echo procps
    command -v lscpu >/dev/null 2>&1 || echo util-linux
    command -v python3 >/dev/null 2>&1 || echo python3
    if ! has_jupyter && ! python3 -c 'import ensurepip, venv' >/dev/null 2>&1; then
        echo python3-venv
    fi
}

install_packages() {
    say "Packages of the system"
    local packages
    mapfile -t packages < <(missing_packages | sort -u)
    if ((${#packages[@]} == 0)); then
        note "all there"
        return
    fi
    local command=(apt-get install -y --no-install-recommends "${packages[@]}")
    command -v apt-get >/dev/null ||
        fail "missing: ${packages[*]} (Debian's names), and there is no apt-get here" \
            "install them with this system's own tool, then run ./install.sh again"
    local as_root=()
    if ((EUID != 0)); then
        command -v sudo >/dev/null ||
            fail "missing: ${packages[*]}, and you are neither root nor is there sudo" \
                "ask an administrator for: ${command[*]}" "then run ./install.sh again"
        as_root=(sudo)
    fi
    note "${as_root[*]} ${command[*]}"
    "${as_root[@]}" apt-get update -qq ||
        note "apt-get update failed; trying with the lists that are there"
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive "${command[@]}" >/dev/null ||
        fail "apt-get could not install: ${packages[*]}" "see its messages above; is there a network?"
}

# A Jupyter that lists kernels and runs notebooks.
has_jupyter() {
    jupyter kernelspec --version >/dev/null 2>&1 && jupyter execute --version >/dev/null 2>&1
}

find_jupyter() {
    say "Jupyter"
    if ! has_jupyter; then
        make_own_jupyter
        PATH="$own_jupyter/bin:$PATH"
        has_jupyter || fail "the Jupyter in $own_jupyter does not work" "rm -r '$own_jupyter', then run ./install.sh again"
    fi
    note "$(command -v jupyter)"
    # A PATH for this run only: a forklab that is asked later has the person's own.
    export PATH
}

make_own_jupyter() {
    if [[ ! -e $own_mark ]]; then
        [[ ! -e $own_jupyter ]] || fail "$own_jupyter is in the way" "move it away, then run ./install.sh again"
        note "none found; installing JupyterLab into $own_jupyter (a minute or two)"
        local fresh="$own_jupyter.new"
        rm -rf -- "$fresh"
        mkdir -p -- "$(dirname -- "$own_jupyter")"
        # Made in its final place, since its programs name it; the mark comes last.
        { python3 -m venv "$own_jupyter" &&
            "$own_jupyter/bin/python" -m pip install --quiet --disable-pip-version-check jupyterlab nbclient; } || {
            rm -rf -- "$own_jupyter"
            fail "JupyterLab could not be installed" "is there a network? try: python3 -m pip download jupyterlab"
        }
        : >"$own_mark"
    fi
}

# --- build and install --------------------------------------------------------------------------

build() {
    say "Building (the first time 4 to 12 minutes)"
    local build_directory=${CARGO_TARGET_DIR:-$root/target}
    (cd -- "$root" && cargo build --release --locked --package forklab-server --target-dir "$build_directory") ||
        fail "the build failed" "see cargo's message above" \
            "out of memory? try: CARGO_BUILD_JOBS=1 ./install.sh" "disk full? it needs some 3 GB in $build_directory"
    binary=$build_directory/release/forklab
}

# With --sys-prefix: the environment of the jupyter that was found, which need not be the active one.
resolve_target() {
    [[ ${target[0]} == --sys-prefix ]] || return 0
    local python=
    IFS= read -r python <"$(command -v jupyter)" || true
    python=${python#\#!}
    if [[ $python != */python* || ! -x $python ]]; then
        python=$(dirname -- "$(command -v jupyter)")/python3
        [[ -x $python ]] || python=python3
    fi
    prefix_path=$("$python" -c 'import sys; print(sys.prefix)')
    target=(--prefix "$prefix_path")
}

install_kernel() {
    say "Installing"
    "$binary" install "${target[@]}" || fail "the installation did not finish" "see the message above, then run ./install.sh again"
    installed=${prefix_path:-$HOME/.local}/bin/forklab
    if [[ -n $prefix_path ]] && ! knows_kernel; then
        export JUPYTER_PATH="$prefix_path/share/jupyter${JUPYTER_PATH:+:$JUPYTER_PATH}"
        note "This jupyter does not look there by itself. Before you start it:"
        note "export JUPYTER_PATH='$prefix_path/share/jupyter'"
    fi
}

# Whether the jupyter that was found starts the forklab that was installed.
knows_kernel() {
    jupyter kernelspec list --json 2>/dev/null | python3 -c '
import json, sys
found = json.load(sys.stdin)["kernelspecs"].get("forklab")
sys.exit(not found or found["spec"]["argv"][0] != sys.argv[1])' "$installed"
}

check() {
    say "Checking (forklab doctor)"
    "$installed" doctor || fail "something is not as it should be" "do what the arrows above say" "then: '$installed' doctor"
}

# --- the lesson ---------------------------------------------------------------------------------

show_lesson() {
    say "Lesson 4, two children: their lines and the parent's come as they are written"
    if [[ ! -r $lesson ]]; then
        note "$lesson is not there; skipped"
        return
    fi
    work=$(mktemp -d)
    trap 'rm -rf -- "$work"' EXIT
    copy_without_outputs "$lesson" "$work/lesson.ipynb"
    jupyter execute --inplace --kernel_name=forklab --timeout=300 "$work/lesson.ipynb" >"$work/log" 2>&1 || {
        print_outputs "$work/lesson.ipynb"
        tail -n 20 -- "$work/log" >&2
        fail "the lesson did not run to its end" "'$installed' doctor --run looks closer"
    }
    print_outputs "$work/lesson.ipynb"
}

# A copy in which every output is of this run.
copy_without_outputs() {
    python3 - "$1" "$2" <<'END'
import json, sys
with open(sys.argv[1], encoding="utf-8") as file:
    notebook = json.load(file)
for cell in notebook["cells"]:
    if cell["cell_type"] == "code":
        cell.update(outputs=[], execution_count=None)
with open(sys.argv[2], "w", encoding="utf-8") as file:
    json.dump(notebook, file)
END
}

# What the cells of a notebook have printed.
print_outputs() {
    python3 - "$1" <<'END'
import json, sys
with open(sys.argv[1], encoding="utf-8") as file:
    cells = json.load(file)["cells"]
for cell in cells:
    texts = []
    for output in cell.get("outputs", []):
        if output["output_type"] == "stream":
            texts.append("".join(output["text"]))
        elif output["output_type"] == "error":
            texts.append("\n".join(output["traceback"]) + "\n")
        else:
            texts.append("".join(output.get("data", {}).get("text/plain", "")) + "\n")
    text = "".join(texts)
    if text.strip():
        print(f"\n    In [{cell.get('execution_count') or ' '}]")
        for line in text.splitlines():
            print("    |", line)
END
}

finish() {
    say "Done"
    note "Kernel:    Rust (forklab)"
    note "Lessons:   $root/notebooks"
    note "Start:     '$(command -v jupyter)' lab '$root/notebooks'"
    note "Trouble?   '$installed' doctor"
}

start_lab() {
    local options=()
    ((EUID != 0)) || options=(--allow-root)
    say "JupyterLab (Ctrl-C ends it)"
    cd -- "$root/notebooks"
    rm -rf -- "${work:-}"
    trap - EXIT
    exec jupyter lab "${options[@]}"
}

# --- and back -----------------------------------------------------------------------------------

uninstall() {
    say "Removing"
    local whole=yes
    # Another installation may still need the Jupyter that was made here.
    [[ ${target[0]} == --user ]] || whole=no
    [[ ! -d $own_jupyter/bin ]] || PATH="$PATH:$own_jupyter/bin"
    ! command -v jupyter >/dev/null || resolve_target
    local program
    # The built binary is asked first: the installed one is among what goes.
    for program in "${CARGO_TARGET_DIR:-$root/target}/release/forklab" "${prefix_path:-$HOME/.local}/bin/forklab"; do
        if [[ -x $program ]]; then
            "$program" uninstall "${target[@]}" || fail "not everything could be removed" "see the message above"
            break
        fi
    done
    if [[ $whole == yes && -e $own_mark ]]; then
        note "removing the Jupyter in $own_jupyter"
        rm -rf -- "$own_jupyter"
    fi
    note "Packages of the system stay, and so does what was built in $root/target."
}

main() {
    read_arguments "$@"
    if [[ $action == uninstall ]]; then
        uninstall
        return
    fi
    find_rust
    install_packages
    find_jupyter
    build
    resolve_target
    install_kernel
    check
    [[ $run_lesson == no ]] || show_lesson
    finish
    [[ $open_lab == no ]] || start_lab
}

main "$@"; exit
