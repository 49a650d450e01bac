#!/usr/bin/env bash
# R2Former, trains the global model (DeiT-S) on MSLS; step (a) of the chain.
# Expected: R@1 79.3, R@5 90.8, R@10 92.6 on MSLS val, global only (Table 2 and 6).
# Needs:    data/msls/train_val/, ImageNet weights (fetched, or model.backbone_weights=FILE).
# Writes:   logs/train_global_retrieval/ with best_model.pth and last_model.pth.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m r2former.experiment_global -F logs/train_global_retrieval \
    with dataset.msls_global model.deit optim=adam lr=1e-5 epochs_num=100 patience=10 \
    save_dir=train_global_retrieval "$@"
