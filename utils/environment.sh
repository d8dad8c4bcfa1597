#!/usr/bin/env bash
# What every shell script of a recipe needs around it: `python`, byte-order sorting, and the job commands. recipe.sh
# sources it; so may a script under local/ that is also run on its own. MAIN_ROOT and cmd_backend may be set before.

MAIN_ROOT="${MAIN_ROOT:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)}"
export MAIN_ROOT

_environment_error() {
    echo "$(basename "$0"): error: $*" >&2
    exit 2
}

# The words of a command as they may be typed again.
quote() {
    local word safe='^[[:alnum:]_./:=,@%+-]+$'
    for word in "$@"; do
        if [[ ${word} =~ ${safe} ]]; then printf '%s ' "${word}"; else printf '%s ' "${word@Q}"; fi
    done
}

# PYTHON where it is set, else .venv of this checkout, else the python3 that is found.
if [ -z "${PYTHON:-}" ]; then
    PYTHON="${MAIN_ROOT}/.venv/bin/python"
    [ -x "${PYTHON}" ] || PYTHON="$(command -v python3)" || PYTHON=python3
fi
"${PYTHON}" -c 'import importlib.util as u, sys; sys.exit(not u.find_spec("espnet_ext"))' 2> /dev/null \
    || _environment_error "${PYTHON} has no espnet_ext; '${MAIN_ROOT}/tools/setup_venv.sh' installs it"
if [[ ${PYTHON} = */* ]]; then
    PYTHON="$(cd "$(dirname "${PYTHON}")" && pwd)/$(basename "${PYTHON}")"
    PATH="$(dirname "${PYTHON}"):${PATH}"
fi
export PYTHON PATH PYTHONUNBUFFERED=1
_environment_prefix='import sys; print(sys.prefix)'
if [ "$(python -c "${_environment_prefix}" 2> /dev/null)" != "$("${PYTHON}" -c "${_environment_prefix}")" ]; then
    python() { "${PYTHON}" "$@"; }
    export -f python
fi

# glibc gives large blocks back to the system as soon as they are free, and the next training step has every page made
# anew, which a small model's step on a CPU feels. Blocks up to 32 MB (its limit) are kept instead.
export MALLOC_MMAP_THRESHOLD_="${MALLOC_MMAP_THRESHOLD_-33554432}" MALLOC_TRIM_THRESHOLD_="${MALLOC_TRIM_THRESHOLD_-4294967296}"

# Byte order for every sort, as in Kaldi, and names that are not ASCII stay readable.
if locale -a 2> /dev/null | grep -qix 'C.utf-\?8'; then export LC_ALL=C.UTF-8; else export LC_ALL=C PYTHONUTF8=1; fi

# Before a command: where util-linux can, it ends with this script, even by kill -9, and never writes beside the next run.
_environment_guard=()
if setpriv --pdeathsig keep true 2> /dev/null; then _environment_guard=(setpriv --pdeathsig TERM); fi

# The job commands are one word each, so that ${train_cmd} may stand unquoted wherever the checkout lies.
_environment_jobs() {
    _recipe_command="$(quote "$@")"
    echo "$(date '+%F %T') ${_recipe_command}" >&2
    local guard=()
    # On a cluster jobs may go on without the machine that asked for them.
    if [ "$1" = run.py ]; then guard=(${_environment_guard[@]+"${_environment_guard[@]}"}); fi
    ${guard[@]+"${guard[@]}"} "${PYTHON}" "${MAIN_ROOT}/utils/$1" "${@:2}" || return
    _recipe_command=""
}
run.py() { _environment_jobs run.py "$@"; }
slurm.py() { _environment_jobs slurm.py "$@"; }

# launch_cmd is for `python -m espnet2.bin.launch --cmd "${launch_cmd}"`, which knows Slurm by the file name slurm.pl.
case "${cmd_backend:=local}" in
    local)
        launch_cmd="$(printf '%q' "${MAIN_ROOT}/utils/run.py")"
        train_cmd="${train_cmd:-run.py}" ;;
    slurm)
        launch_cmd="$(printf '%q' "${MAIN_ROOT}/utils/slurm.pl")"
        if [ -s conf/slurm.conf ]; then
            launch_cmd+=" --config conf/slurm.conf"
            train_cmd="${train_cmd:-slurm.py --config conf/slurm.conf}"
        fi
        train_cmd="${train_cmd:-slurm.py}" ;;
    *) _environment_error "--cmd_backend is local or slurm, not '${cmd_backend}'" ;;
esac
# shellcheck disable=SC2034  # for the script that sources this file
cuda_cmd="${cuda_cmd:-${train_cmd} --gpu 1}"
