#!/usr/bin/env bash
# Make the embedded corpus in the recipe that calls it: train and test speakers, noise, music and rooms -> data/.
set -euo pipefail
MAIN_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"

# begin options
num_speakers=40         # training speakers
num_utts=25             # utterances of each
num_test_speakers=20    # test speakers, none of them a training speaker
num_test_utts=15        # utterances of each
seed=0                  # the same seed makes the same bytes
nj=2                    # parallel processes
# end options
. "${MAIN_ROOT}/utils/parse_options.sh"
. "${MAIN_ROOT}/utils/environment.sh"

python "${MAIN_ROOT}/egs2/mini_espeak/make_corpus.py" --out data --num_speakers "${num_speakers}" --num_utts "${num_utts}" \
    --num_test_speakers "${num_test_speakers}" --num_test_utts "${num_test_utts}" --seed "${seed}" --nj "${nj}"
