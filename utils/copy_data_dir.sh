#!/usr/bin/env bash
# Kaldi's command of this name, over espnet_ext.datadir; --help says what it does.
# shellcheck source=utils/environment.sh
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
exec "${PYTHON}" -m espnet_ext.bin.copy_data_dir "$@"
