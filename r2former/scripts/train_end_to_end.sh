#!/usr/bin/env bash
# R2Former, trains everything at once from ImageNet weights.
# Expected: R@1 87.3, R@5 93.5, R@10 95.4 on MSLS val (Table 5).
# Needs:    data/msls/train_val/, ImageNet weights (fetched, or model.backbone_weights=FILE).
# Writes:   logs/train_end_to_end/ with best_model.pth and last_model.pth.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m r2former.experiment_rerank -F logs/train_end_to_end \
    with dataset.msls_end_to_end model.deit fix=0 finetune=1 optim=adamw lr=1e-4 cos=True \
    warmup=5 epochs_num=100 patience=50 save_dir=train_end_to_end "$@"
