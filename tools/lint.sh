#!/usr/bin/env bash
# ruff over the Python and shellcheck over the shell scripts of this checkout: tools/lint.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH="${PWD}/.venv/bin:${PATH}"

failed=0
ruff check . || failed=1
mapfile -d '' scripts < <(find . -path ./.venv -prune -o -name '*.sh' -print0 | sort -z)
shellcheck -x "${scripts[@]}" .ci/run || failed=1
exit "${failed}"
