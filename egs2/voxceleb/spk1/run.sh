#!/usr/bin/env bash
# Speaker verification on VoxCeleb: ESPnet-SPK (arXiv 2401.17230). README.md has the layout of the corpora and the paper's table.
#     ./run.sh --corpus /data/voxceleb --train_config conf/train_ska.yaml --ngpu 4
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

exec ../../TEMPLATE/spk1/spk.sh \
    --train_set train \
    --test_sets vox1 \
    --num_dev_speakers 100 \
    --max_trials 40000 \
    --cohort_per_speaker 20 \
    --train_config conf/train_ecapa.yaml \
    --ngpu 1 \
    --nj 8 \
    "$@"
