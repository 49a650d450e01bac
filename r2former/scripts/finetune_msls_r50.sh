#!/usr/bin/env bash
# R2Former, trains both parts together (ResNet-50 with GeM) on MSLS; step (c) of the chain.
# Expected: R@1 88.4, R@5 93.6, R@10 95.3 on MSLS val (Table 6).
# Needs:    data/msls/train_val/, the output of train_reranking_r50.sh.
# Writes:   logs/finetune_msls_r50/: best_model.pth, best_model_global.pth, last_model.pth.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m r2former.experiment_rerank -F logs/finetune_msls_r50 \
    with dataset.msls_finetune model.resnet50 fix=0 finetune=0 optim=adamw lr=1e-5 cos=True \
    warmup=5 epochs_num=20 patience=50 resume=logs/train_reranking_r50/best_model.pth \
    save_dir=finetune_msls_r50 "$@"
