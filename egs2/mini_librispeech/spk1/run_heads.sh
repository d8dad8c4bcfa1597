#!/usr/bin/env bash
# A light head and SUPERB's x-vector head on the small HuBERT of ../../mini_espeak/ssl1, on growing parts of real speech.
#     ./run_heads.sh --corpus /data/LibriSpeech
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

../../TEMPLATE/spk1/heads.sh \
    --upstreams ../../mini_espeak/ssl1/exp/ssl_train_hubert/hf \
    --heads "conf/train_ssl_light.yaml conf/train_ssl_xvector.yaml" \
    --baseline conf/train_ssl_xvector.yaml \
    --zero_shot ../../mini_espeak/spk1/conf/train_ssl_zero_shot.yaml \
    --fit_set train \
    --dev_set dev \
    --condition cross_session \
    --train_fraction "0.2 0.6 1" \
    --run_opts "--cohort_per_speaker 3" \
    "$@"
