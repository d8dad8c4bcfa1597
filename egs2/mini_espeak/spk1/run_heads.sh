#!/usr/bin/env bash
# A light head and SUPERB's x-vector head on the small HuBERT of ../ssl1, on growing parts of the data.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

../../TEMPLATE/spk1/heads.sh \
    --upstreams ../ssl1/exp/ssl_train_hubert/hf \
    --heads "conf/train_ssl_light.yaml conf/train_ssl_xvector.yaml" \
    --baseline conf/train_ssl_xvector.yaml \
    --zero_shot conf/train_ssl_zero_shot.yaml \
    --train_fraction "0.2 0.6 1" \
    --run_opts "--cohort_per_speaker 3" \
    "$@"
