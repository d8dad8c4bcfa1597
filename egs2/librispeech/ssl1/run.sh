#!/usr/bin/env bash
# HuBERT Base on the 960 hours of LibriSpeech (arXiv 2106.07447), two iterations, as arXiv 2409.10788 varies it.
#     ./run.sh --corpus /data/LibriSpeech --ngpu 8 --nj 8
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

exec ../../TEMPLATE/ssl1/ssl.sh \
    --train_set train_960 \
    --dev_set dev \
    --features "mfcc previous" \
    --layers "- 6" \
    --num_units "100 500" \
    --max_frames 2000000 \
    --kmeans_opts "--iterations 100 --restarts 3" \
    --train_config "conf/train_hubert_base_it1.yaml conf/train_hubert_base.yaml" \
    --ngpu 8 \
    --nj 8 \
    "$@"
