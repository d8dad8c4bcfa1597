#!/usr/bin/env bash
# Speaker-IPL on synthetic voices: minutes on two CPU cores, nothing to download, no label read.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

../../TEMPLATE/ipl1/ipl.sh \
    --train_set train \
    --test_sets test \
    --train_config conf/train_ecapa.yaml \
    "$@"
