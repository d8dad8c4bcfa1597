#!/usr/bin/env bash
# Speaker verification on a small part of LibriSpeech: real speech, minutes on two CPU cores. README.md has the results.
#     ./run.sh                               downloads the official archives
#     ./run.sh --corpus /data/LibriSpeech    uses what is there
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

exec ../../TEMPLATE/spk1/spk.sh \
    --train_set train \
    --dev_set dev \
    --test_sets test \
    --test_trials_opts "--cross_session false --conditions cross_session same_gender" \
    --train_config conf/train_ecapa_small.yaml \
    "$@"
