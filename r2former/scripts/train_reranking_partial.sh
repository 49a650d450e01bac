#!/usr/bin/env bash
# R2Former, trains the reranker with partial in place of global mining.
# Expected: R@1 86.6, R@5 94.1, R@10 95.0 on MSLS val (Table 5).
# Needs:    data/msls/train_val/, r2former/r2former_ckpts/msls_v2_deits.pth.
# Writes:   logs/train_reranking_partial/ with best_model.pth and last_model.pth.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m r2former.experiment_rerank -F logs/train_reranking_partial \
    with dataset.msls_rerank_partial model.deit fix=1 optim=adamw lr=5e-4 cos=True warmup=5 \
    epochs_num=50 patience=25 resume=r2former/r2former_ckpts/msls_v2_deits.pth \
    save_dir=train_reranking_partial "$@"
