#!/usr/bin/env bash
# VoxCeleb2's dev part to train on, VoxCeleb1 to test, MUSAN, RIRS_NOISES -> data/. `local/data.sh --help` lists the options.
set -euo pipefail
exec "${PYTHON:-python3}" ../spk1/local/data_prep.py --train_on vox2 --lists o_cleaned,e_cleaned,h_cleaned "$@"
