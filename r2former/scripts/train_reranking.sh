#!/usr/bin/env bash
# R2Former, trains the reranker on the fixed DeiT-S; step (b) of the chain.
# Expected: R@1 88.4, R@5 93.4, R@10 94.9 on MSLS val (Table 5).
# Needs:    data/msls/train_val/, the output of mine_global.sh,
#           r2former/r2former_ckpts/msls_v2_deits.pth (or the output of train_global_retrieval.sh).
# Writes:   logs/train_reranking/: best_model.pth, best_model_global.pth, last_model.pth.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m r2former.experiment_rerank -F logs/train_reranking \
    with dataset.msls_rerank model.deit fix=1 optim=adamw lr=5e-4 cos=True warmup=5 \
    epochs_num=50 patience=25 resume=r2former/r2former_ckpts/msls_v2_deits.pth \
    save_dir=train_reranking "$@"
