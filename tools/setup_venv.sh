#!/usr/bin/env bash
# Make the Python environment: tools/setup_venv.sh [DIR]    (default: .venv beside this checkout's README)
#
# Finds a Python 3.10, 3.11 or 3.12 (PYTHON says which), makes a virtual environment and installs the pinned packages of
# tools/constraints.txt and espnet_ext itself. When nothing has changed it returns at once; a killed run is simply
# started again.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
PIP=25.3         # pip 26 refuses ci_sdr, which espnet needs, because its metadata carry a direct URL
NEEDED_GB=8      # the environment is 6 GB, most of it CUDA libraries of the torch wheel

fail() {
    echo "setup_venv.sh: error: $*" >&2
    exit 2
}

if [ $# -gt 1 ] || [[ ${1:-} = -* ]]; then
    sed -n '2,6s/^# \{0,1\}//p' "$0"
    [[ ${1:-} = --help || ${1:-} = -h ]] && exit 0
    exit 2
fi
venv="${1:-${ROOT}/.venv}"
stamp="${venv}/.espnet_ext_installed"

# What was installed: the wishes, the Python, and the checkout that the environment points to.
describe() {
    "${venv}/bin/python" -c 'import sys; print(sys.version_info[:3])' 2> /dev/null || return 1
    echo "${ROOT}"
    cat "${ROOT}/setup.py" "${ROOT}/tools/constraints.txt" "${ROOT}/tools/setup_venv.sh" | cksum
}
if [ -s "${stamp}" ] && [ "$(describe)" = "$(cat "${stamp}")" ]; then
    exit 0
fi

# runs NAME CODE: whether this Python starts and the code succeeds (a pyenv shim may exist and not run).
runs() { "$1" -c "$2" > /dev/null 2>&1; }
right_version='import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))'
no_venv=""
find_python() {
    local candidate
    for candidate in ${PYTHON:+"${PYTHON}"} "${venv}/bin/python" python3.12 python3.11 python3.10 python3 \
        "${HOME:-/root}"/.pyenv/versions/3.1[0-2].*/bin/python /usr/local/bin/python3.1[0-2] /opt/*/bin/python3.1[0-2]; do
        if runs "${candidate}" "${right_version}"; then
            if runs "${candidate}" 'import venv, ensurepip'; then
                "${candidate}" -c 'import sys; print(sys.executable)'
                return
            fi
            no_venv="${candidate}"
        fi
        if [ -n "${PYTHON:-}" ]; then break; fi
    done
    if [ -n "${no_venv}" ]; then
        fail "${no_venv} has no venv module; on Debian and Ubuntu: apt-get install $(basename "${no_venv}")-venv"
    elif [ -n "${PYTHON:-}" ]; then
        fail "PYTHON=${PYTHON} is not a working Python 3.10, 3.11 or 3.12"
    fi
    fail "there is no Python 3.10, 3.11 or 3.12; install one (apt-get install python3 python3-venv, or pyenv)," \
        "or set PYTHON to its path"
}
python="$(find_python)"

if [ -e "${venv}" ] && [ ! -e "${venv}/pyvenv.cfg" ] && [ -n "$(ls -A "${venv}")" ]; then
    fail "${venv} exists and is no virtual environment; give another folder"
fi
"${python}" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_paths()["include"] + "/Python.h"))' \
    || fail "${python} has no Python.h, which pyworld is compiled with; on Debian and Ubuntu: apt-get install python3-dev"
command -v "${CXX:-c++}" > /dev/null || command -v g++ > /dev/null \
    || fail "there is no C++ compiler, which pyworld is compiled with; on Debian and Ubuntu: apt-get install g++"
mkdir -p "${venv}" 2> /dev/null || fail "cannot make the folder ${venv}"
free_kb="$(df -Pk "${venv}" | awk 'NR == 2 { print $4 }')"
installed="$(compgen -G "${venv}/lib/python3*/site-packages/torch" || true)"
if [ -z "${installed}" ] && [ "${free_kb}" -lt $((NEEDED_GB * 1000 * 1000)) ]; then
    fail "${venv} needs ${NEEDED_GB} GB and its disk has $((free_kb / 1000 / 1000)) GB left; free some, or give another folder"
fi

rm -f "${stamp}"
log="${venv}/setup.log"
# Runs a step with its output in the log; a failure is told in one line where the log says why.
step() {
    if "$@" >> "${log}" 2>&1; then return; fi
    tail -n 15 "${log}" >&2
    if grep -qiE 'no space left|disk quota' "${log}"; then
        fail "no space left while installing into ${venv}; free some and start again, what was downloaded is kept"
    elif grep -qiE 'failed to establish|name resolution|timed? ?out|connection (error|reset|refused|aborted)|proxyerror' "${log}"; then
        fail "the package index cannot be reached; check the network (and http_proxy, pip config) and start again"
    elif grep -qE '(c\+\+|g\+\+|gcc|cc).* failed|Python.h: No such file' "${log}"; then
        fail "a package could not be compiled; on Debian and Ubuntu: apt-get install g++ python3-dev; see ${log}"
    fi
    fail "the installation failed; see ${log}"
}
echo "setup_venv.sh: $("${python}" -V) at ${python} -> ${venv}; this takes some minutes, log: ${log}" >&2
: > "${log}"
if ! runs "${venv}/bin/python" "${right_version}"; then
    step "${python}" -m venv --clear "${venv}"
elif [ -n "${PYTHON:-}" ] && [ "$("${python}" -V)" != "$("${venv}/bin/python" -V)" ]; then
    step "${python}" -m venv --clear "${venv}"
elif ! runs "${venv}/bin/python" 'import pip'; then
    step "${python}" -m venv "${venv}"
fi
cd "${ROOT}"
step "${venv}/bin/python" -m pip install "pip==${PIP}"
step "${venv}/bin/python" -m pip install -c tools/constraints.txt -e '.[test,onnx]'
describe > "${stamp}.new"
mv "${stamp}.new" "${stamp}"
echo "setup_venv.sh: done; . '${venv}/bin/activate' makes it the Python of a shell" >&2
