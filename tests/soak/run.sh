#!/usr/bin/env bash
# The soak: hundreds of cells that crash, fork, exit and are stopped, in a random order, beside a model
# of the variables. Prints its figures; its exit status is 0 when nothing was found.
#
#   tests/soak/run.sh [--prefix DIR] [--cells 500] [--seed N] [--log FILE]
#
#   --prefix DIR   the kernel that is installed below DIR, instead of the present tree's
#   --cells N      how many cells, after one of each kind
#   --seed N       repeats the order of an earlier run
#   --log FILE     writes every cell and its end
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.."
# shellcheck source=tests/outside.sh
. tests/outside.sh

prefix=
arguments=()
while (($# > 0)); do
    case $1 in
        --prefix) prefix=$(realpath -- "$2") && shift 2 ;;
        --help | -h) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" && exit 0 ;;
        *) arguments+=("$1") && shift ;;
    esac
done

prepare_python
prepare_kernel "$prefix"
# A zygote outlives its kernels.
export FORKLAB_ZYGOTE=off
"$python" tests/soak/soak.py "${arguments[@]}"
