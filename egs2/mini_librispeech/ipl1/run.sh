#!/usr/bin/env bash
# Speakers without labels on a small part of LibriSpeech: real speech, minutes on two CPU cores. README.md has the results.
#     ./run.sh                               downloads the official archives
#     ./run.sh --corpus /data/LibriSpeech    uses what is there
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

exec ../../TEMPLATE/ipl1/ipl.sh \
    --train_set all \
    --test_sets test \
    --test_trials_opts "--cross_session false --conditions cross_session" \
    --num_gaussians 64 \
    --ubm_args "--full_iterations 4" \
    --ivector_dim 100 \
    --ivector_args "--posterior_scale 0.03" \
    --ivector_tag 64_100_0.03 \
    --method ahc \
    --num_kmeans 0 \
    --num_clusters 110 \
    --cluster_args "--linkage average" \
    --min_utterances 3 \
    --piece_s 4 \
    --max_rounds 2 \
    --warm_start true \
    --num_dev_utterances 8 \
    --train_config conf/train_ecapa.yaml \
    "$@"
