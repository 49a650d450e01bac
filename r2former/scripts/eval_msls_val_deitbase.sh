#!/usr/bin/env bash
# R2Former on DeiT-B, row "MSLS val", global and reranked (Table 6).
# Expected: R@1 90.0, R@5 95.1, R@10 96.9;
#           global R@1 84.9, R@5 92.7, R@10 94.5.
# Needs:    data/msls/train_val/{cph,sf}/,
#           logs/finetune_msls_deitbase/best_model.pth (finetune_msls_deitbase.sh).
# Writes:   logs/eval_msls_val_deitbase/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m r2former.evaluate -F logs/eval_msls_val_deitbase \
    with dataset.msls model.deitBase dataset.infer_batch_size=64 \
    resume=logs/finetune_msls_deitbase/best_model.pth row=eval_msls_val_deitbase \
    temp_dir=logs/eval_msls_val_deitbase "$@"
