#!/usr/bin/env bash
# R2Former, hard negatives of the MSLS training queries by the global model (ResNet-50 with GeM).
# Needs:    data/msls/train_val/,
#           the output of train_global_retrieval_r50.sh.
# Writes:   logs/mine_global_r50/, and the list to
#           r2former/r2former_ckpts/msls_v2_resnet50_hard_final.npy.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m r2former.precompute_mining -F logs/mine_global_r50 \
    with dataset.msls_rerank model.resnet50 \
    resume=logs/train_global_retrieval_r50/best_model.pth "$@"
