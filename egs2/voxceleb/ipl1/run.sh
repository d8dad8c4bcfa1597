#!/usr/bin/env bash
# Speaker-IPL on VoxCeleb2's dev part without labels (arXiv 2409.10791), tested on VoxCeleb1. README.md has the numbers.
#     ./run.sh --corpus /data/voxceleb --ngpu 4 --nj 16
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

exec ../../TEMPLATE/ipl1/ipl.sh \
    --train_set train \
    --test_sets vox1 \
    --num_gaussians 2048 \
    --ubm_args "--num_selected 30" \
    --ivector_dim 400 \
    --ivector_iterations 5 \
    --ivector_args "--num_selected 20" \
    --method kmeans_ahc \
    --num_kmeans 50000 \
    --num_clusters 7500 \
    --cluster_args "--iterations 20 --restarts 3" \
    --max_rounds 10 \
    --num_dev_utterances 4000 \
    --train_config conf/train_ecapa.yaml \
    --finetune_config conf/train_ecapa_lmft.yaml \
    --ngpu 1 \
    --nj 8 \
    "$@"
