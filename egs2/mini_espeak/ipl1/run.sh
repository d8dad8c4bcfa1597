#!/usr/bin/env bash
# Speaker-IPL on synthetic voices: minutes on two CPU cores, nothing to download, no label read.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

../../TEMPLATE/ipl1/ipl.sh \
    --train_set train \
    --test_sets test \
    --num_gaussians 64 \
    --ubm_args "--full_iterations 0" \
    --ivector_dim 50 \
    --num_clusters 40 \
    --num_kmeans 200 \
    --num_dev_utterances 80 \
    --max_rounds 4 \
    --train_config conf/train_ecapa.yaml \
    "$@"
