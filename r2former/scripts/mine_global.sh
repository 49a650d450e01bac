#!/usr/bin/env bash
# R2Former, hard negatives of the MSLS training queries by the global model (DeiT-S).
# Needs:    data/msls/train_val/,
#           r2former/r2former_ckpts/msls_v2_deits.pth (or the output of train_global_retrieval.sh).
# Writes:   logs/mine_global/, and the list to
#           r2former/r2former_ckpts/msls_v2_deit_hard_final.npy.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m r2former.precompute_mining -F logs/mine_global \
    with dataset.msls_rerank model.deit resume=r2former/r2former_ckpts/msls_v2_deits.pth "$@"
