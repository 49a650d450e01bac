#!/usr/bin/env bash
# A trained DELG network as a SavedModel with global descriptors (for Kaggle's form add kaggle).
# Needs:    logs/train_delg/delf_weights.index (train_delg.sh; for others add ckpt_path=PREFIX).
# Writes:   logs/export_global/model/, logs/export_global/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m delg_training.export_global_model -F logs/export_global \
    with model.delg ckpt_path=logs/train_delg/delf_weights export_path=logs/export_global/model "$@"
