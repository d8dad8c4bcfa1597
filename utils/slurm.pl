#!/bin/sh
# ESPnet's launcher (espnet2.bin.launch) recognises Slurm by the file name slurm.pl and then starts one srun task per node.
exec python3 "$(dirname "$0")/slurm.py" "$@"
