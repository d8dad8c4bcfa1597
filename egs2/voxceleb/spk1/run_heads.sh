#!/usr/bin/env bash
# Speaker heads on HuBERT, wav2vec 2.0 and WavLM, as SUPERB tests them: VoxCeleb1 alone, frozen encoders. See README.md.
#     ./run_heads.sh --corpus /data/voxceleb --upstreams microsoft/wavlm-base-plus
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

../../TEMPLATE/spk1/heads.sh \
    --upstreams "facebook/hubert-base-ls960 facebook/hubert-large-ll60k
        facebook/wav2vec2-base facebook/wav2vec2-large-lv60
        microsoft/wavlm-base microsoft/wavlm-base-plus microsoft/wavlm-large" \
    --heads "conf/train_ssl_light.yaml conf/train_ssl_xvector.yaml" \
    --baseline conf/train_ssl_xvector.yaml \
    --zero_shot conf/train_ssl_zero_shot.yaml \
    --train_set train_vox1 \
    --fit_set train_vox1_fit \
    --dev_set train_vox1_dev \
    --test_set vox1 \
    --condition o_cleaned \
    "$@"
