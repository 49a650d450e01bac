#!/usr/bin/env bash
# Generated streets, trains backbone, local features and reranker together, from the global model.
# Expected: see the table of r2former/README.md (measured with this code; nothing is published).
# Needs:    data/mini_streets/, the output of train_global_streets_mini.sh.
# Writes:   logs/train_end_to_end_streets_mini/ with best_model.pth and last_model.pth.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m r2former.experiment_rerank -F logs/train_end_to_end_streets_mini \
    with dataset.mini_end_to_end model.resnet_mini fix=0 finetune=1 criterion=in_batch \
    local_start=pca lr=1e-3 warmup=-1 epochs_num=8 patience=8 val_top_k=20 autocast=True \
    max_minutes=20 resume=logs/train_global_streets_mini/best_model.pth \
    save_dir=train_end_to_end_streets_mini "$@"
