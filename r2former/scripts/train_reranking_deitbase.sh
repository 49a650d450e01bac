#!/usr/bin/env bash
# R2Former, trains the reranker on the fixed DeiT-B; step (b) of the chain.
# Expected: nothing published for this step.
# Needs:    data/msls/train_val/, the output of mine_global_deitbase.sh,
#           the output of train_global_retrieval_deitbase.sh.
# Writes:   logs/train_reranking_deitbase/: best_model.pth, best_model_global.pth, last_model.pth.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m r2former.experiment_rerank -F logs/train_reranking_deitbase \
    with dataset.msls_rerank model.deitBase fix=1 optim=adamw lr=5e-4 cos=True warmup=5 \
    epochs_num=50 patience=25 \
    resume=logs/train_global_retrieval_deitbase/best_model.pth \
    save_dir=train_reranking_deitbase "$@"
