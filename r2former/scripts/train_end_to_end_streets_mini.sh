#!/usr/bin/env bash
# Generated streets, trains everything at once from random weights: 17 minutes at most.
# Expected: measured with this code, see the README; nothing is published.
# Needs:    data/mini_streets/ (python -m data.make_mini streets).
# Writes:   logs/train_end_to_end_streets_mini/ with best_model.pth and last_model.pth.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m r2former.experiment_rerank -F logs/train_end_to_end_streets_mini \
    with dataset.mini_end_to_end model.resnet_mini fix=0 finetune=1 lr=1e-3 warmup=1 \
    epochs_num=7 patience=7 val_top_k=20 max_minutes=17 save_dir=train_end_to_end_streets_mini "$@"
