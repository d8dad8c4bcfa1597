#!/usr/bin/env bash
# Speaker verification on synthetic voices: the demo. Minutes on two CPU cores, nothing to download.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

exec ../../TEMPLATE/spk1/spk.sh \
    --train_set train \
    --test_sets test \
    --num_dev_speakers 8 \
    --train_config conf/train_ecapa.yaml \
    "$@"
