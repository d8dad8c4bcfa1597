#!/usr/bin/env bash
# LibriSpeech -> data/train, data/dev, data/test as in ../spk1, whose options it takes, but utterances stay whole; and
# data/all: the speech of train and dev together. IPL reads no label, so that no speakers need to be kept for choices.
set -euo pipefail
python="${PYTHON:-python3}"
"${python}" ../spk1/local/data_prep.py --cut_s 0 "$@"
rm -f data/train/text data/dev/text # nothing here reads transcripts, and not every utterance has one
"${python}" -m espnet_ext.bin.combine_data data/all data/train data/dev
