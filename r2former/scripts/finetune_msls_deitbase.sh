#!/usr/bin/env bash
# R2Former, trains both parts together (DeiT-B) on MSLS; step (c) of the chain.
# Expected: R@1 90.0, R@5 95.1, R@10 96.9 on MSLS val (Table 6).
# Needs:    data/msls/train_val/, the output of train_reranking_deitbase.sh.
# Writes:   logs/finetune_msls_deitbase/: best_model.pth, best_model_global.pth, last_model.pth.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m r2former.experiment_rerank -F logs/finetune_msls_deitbase \
    with dataset.msls_finetune model.deitBase fix=0 finetune=0 optim=adamw lr=1e-5 cos=True \
    warmup=5 epochs_num=20 patience=50 \
    resume=logs/train_reranking_deitbase/best_model.pth \
    save_dir=finetune_msls_deitbase "$@"
