#!/usr/bin/env bash
# DELG of the generated landmarks as a SavedModel with local features and global descriptors.
# Needs:    the output of train_mini.sh.
# Writes:   logs/export_mini/model/ (which must not exist), logs/export_mini/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m delg_training.export_local_and_global_model -F logs/export_mini \
    with model.delg_mini ckpt_path=logs/train_delg_mini/delf_weights \
    export_path=logs/export_mini/model "$@"
