#!/usr/bin/env bash
# Speaker-IPL on synthetic voices: minutes on two CPU cores, nothing to download, no label read.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

exec ../../TEMPLATE/ipl1/ipl.sh \
    --train_set train \
    --test_sets test \
    --num_gaussians 64 \
    --ubm_args "--full_iterations 0" \
    --ivector_dim 50 \
    --cluster_candidates "20 30 40 50 60 80" \
    --num_kmeans 200 \
    --cluster_args "--restarts 3" \
    --min_utterances 15 \
    --num_dev_utterances 80 \
    --max_rounds 3 \
    --train_config conf/train_ecapa.yaml \
    "$@"
