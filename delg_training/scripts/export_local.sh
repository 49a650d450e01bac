#!/usr/bin/env bash
# A trained DELF network as a SavedModel with local features.
# Needs:    logs/train_delf/delf_weights.index (train_delf.sh; for others add ckpt_path=PREFIX).
# Writes:   logs/export_local/model/, logs/export_local/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m delg_training.export_local_model -F logs/export_local \
    with model.delf ckpt_path=logs/train_delf/delf_weights export_path=logs/export_local/model "$@"
