#!/usr/bin/env bash
# HuBERT on synthetic voices: two iterations in minutes on two CPU cores, nothing to download.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

exec ../../TEMPLATE/ssl1/ssl.sh \
    --train_set train \
    --test_sets test \
    --num_dev_speakers 4 \
    --features "mfcc previous" \
    --layers "- 2" \
    --num_units "100 100" \
    --max_frames 100000 \
    --num_rank_utts 100 \
    --num_probe_utts 200 \
    --train_config conf/train_hubert.yaml \
    "$@"
