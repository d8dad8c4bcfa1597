#!/usr/bin/env bash
# LibriSpeech -> data/train_960, data/dev and each part of it. `local/data.sh --help` lists the options.
set -euo pipefail
exec "${PYTHON:-python3}" "$(dirname "${BASH_SOURCE[0]}")/data_prep.py" "$@"
