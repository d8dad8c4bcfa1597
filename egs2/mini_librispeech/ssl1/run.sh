#!/usr/bin/env bash
# HuBERT on a small part of LibriSpeech: real speech, minutes on two CPU cores. README.md has the results.
#     ./run.sh                               downloads the official archives
#     ./run.sh --corpus /data/LibriSpeech    uses what is there
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

exec ../../TEMPLATE/ssl1/ssl.sh \
    --train_set train \
    --dev_set dev \
    --probe_set probe \
    --test_sets test \
    --features "mfcc previous" \
    --layers "- 2" \
    --num_units "100 100" \
    --max_frames 100000 \
    --num_rank_utts 60 \
    --num_probe_utts 150 \
    --warm_start true \
    --train_config conf/train_hubert.yaml \
    "$@"
