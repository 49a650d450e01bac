#!/usr/bin/env bash
# A trained DELG network as a SavedModel with local features and global descriptors.
# Needs:    logs/train_delg/delf_weights.index (train_delg.sh; for others add ckpt_path=PREFIX).
# Writes:   logs/export_local_and_global/model/, logs/export_local_and_global/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m delg_training.export_local_and_global_model -F logs/export_local_and_global \
    with model.delg ckpt_path=logs/train_delg/delf_weights \
    export_path=logs/export_local_and_global/model "$@"
