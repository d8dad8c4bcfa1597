#!/usr/bin/env bash
# VoxCeleb2's m4a (AAC) -> 16 kHz mono FLAC in the same layout: local/convert_m4a.sh VOX2_DIR OUT_DIR [JOBS]
# libsndfile reads no AAC, so this needs ffmpeg (apt install ffmpeg). The dev part is 1,092,009 files, 2,300 hours: 270 GB
# as wav, well under that as FLAC.
# A file that is there is not converted again: the same command goes on after an interruption.
set -euo pipefail
if [ $# -lt 2 ]; then sed -n '2,5s/^# //p' "$0"; exit 2; fi
from=$(cd "$1" && pwd)
mkdir -p "$2"
to=$(cd "$2" && pwd)
jobs=${3:-$(nproc)}
command -v ffmpeg > /dev/null || { echo "convert_m4a.sh: error: ffmpeg is not installed; apt install ffmpeg" >&2; exit 2; }

convert() {
    local out=$2/${3%.m4a}.flac
    [ ! -s "${out}" ] || return 0
    mkdir -p "$(dirname "${out}")"
    ffmpeg -nostdin -loglevel error -y -i "$1/$3" -ac 1 -ar 16000 -f flac "${out}.part" && mv "${out}.part" "${out}"
}
export -f convert
cd "${from}"
find . -name '*.m4a' -print0 | xargs -0 -P "${jobs}" -I{} bash -c 'convert "$@"' _ "${from}" "${to}" {}
