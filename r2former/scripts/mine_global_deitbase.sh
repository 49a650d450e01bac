#!/usr/bin/env bash
# R2Former, hard negatives of the MSLS training queries by the global model (DeiT-B).
# Needs:    data/msls/train_val/,
#           the output of train_global_retrieval_deitbase.sh.
# Writes:   logs/mine_global_deitbase/, and the list to
#           r2former/r2former_ckpts/msls_v2_deitBase_hard_final.npy.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m r2former.precompute_mining -F logs/mine_global_deitbase \
    with dataset.msls_rerank model.deitBase \
    resume=logs/train_global_retrieval_deitbase/best_model.pth "$@"
