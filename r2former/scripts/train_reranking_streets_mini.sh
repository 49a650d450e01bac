#!/usr/bin/env bash
# Generated streets, trains the reranker of row "reranked": 18 minutes on 2 busy
# cores.
# Expected: see the table of r2former/README.md (measured with this code; nothing is published).
# Needs:    data/mini_streets/, the outputs of train_global_streets_mini.sh and
#           mine_global_streets_mini.sh.
# Writes:   logs/train_reranking_streets_mini/ with best_model.pth and last_model.pth.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m r2former.experiment_rerank -F logs/train_reranking_streets_mini \
    with dataset.mini_rerank model.resnet_mini fix=1 cache_frozen=True local_start=pca lr=2e-3 \
    warmup=-1 epochs_num=24 patience=24 val_top_k=20 max_minutes=20 \
    resume=logs/train_global_streets_mini/best_model.pth save_dir=train_reranking_streets_mini "$@"
