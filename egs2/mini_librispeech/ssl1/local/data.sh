#!/usr/bin/env bash
# LibriSpeech -> data/train, data/dev, data/test as in ../spk1, whose options it takes, but utterances stay whole; and
# data/probe: the training utterances that have a transcript. Phones come from espeak-ng, their times from an aligner.
set -euo pipefail
python="${PYTHON:-python3}"
"${python}" ../spk1/local/data_prep.py --cut_s 0 "$@"
[[ " $* " != *" --help "* ]] || exit 0
# A table of a data directory has a line for every utterance, and not every training utterance has a transcript.
mv data/train/text data/transcripts
"${python}" -m espnet_ext.bin.subset_data_dir --utt-list data/transcripts data/train data/probe
mv data/transcripts data/probe/text
"${python}" -m espnet_ext.bin.phonemize --data data/probe data/dev data/test
"${python}" -m espnet_ext.bin.align_phones --train data/probe --data data/probe data/dev data/test --iterations 8 \
    --overwrite true
