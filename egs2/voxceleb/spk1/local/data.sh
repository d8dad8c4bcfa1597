#!/usr/bin/env bash
# VoxCeleb, MUSAN, RIRS_NOISES -> data/. `local/data.sh --help` lists the options.
set -euo pipefail
exec "${PYTHON:-python3}" "$(dirname "${BASH_SOURCE[0]}")/data_prep.py" "$@"
