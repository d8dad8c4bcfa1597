#!/usr/bin/env bash
# Show what a recipe has measured: tools/show_results.sh EXPERIMENT_FOLDER
set -euo pipefail
if [ ! -s "${1:?the folder of an experiment, for example egs2/mini_espeak/spk1/exp/spk_train_ecapa}/RESULTS.md" ]; then
    echo "show_results.sh: error: $1/RESULTS.md is missing; stage score of the recipe makes it" >&2
    exit 2
fi
echo
sed '/ What the columns mean/,$d' "$1/RESULTS.md"
echo "In full: $1/RESULTS.md; DET curves: $1/det.png; the model: $1.zip"
