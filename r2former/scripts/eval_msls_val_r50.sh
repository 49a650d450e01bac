#!/usr/bin/env bash
# R2Former on ResNet-50, row "MSLS val", global and reranked (Table 6).
# Expected: R@1 88.4, R@5 93.6, R@10 95.3;
#           global R@1 79.6, R@5 90.9, R@10 92.6.
# Needs:    data/msls/train_val/{cph,sf}/,
#           logs/finetune_msls_r50/best_model.pth (finetune_msls_r50.sh).
# Writes:   logs/eval_msls_val_r50/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m r2former.evaluate -F logs/eval_msls_val_r50 \
    with dataset.msls model.resnet50 dataset.infer_batch_size=64 \
    resume=logs/finetune_msls_r50/best_model.pth row=eval_msls_val_r50 \
    temp_dir=logs/eval_msls_val_r50 "$@"
