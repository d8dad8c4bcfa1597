#!/usr/bin/env bash
# The corpus of all recipes here. `local/data.sh --help` lists the options.
set -euo pipefail
exec ../make_data.sh "$@"
