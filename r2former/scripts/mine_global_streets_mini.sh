#!/usr/bin/env bash
# Generated streets, hard negatives of the training queries by the global model.
# Needs:    data/mini_streets/, the output of train_global_streets_mini.sh.
# Writes:   logs/mine_global_streets_mini/, and the list to
#           r2former/r2former_ckpts/mini_streets_v2_resnetMini_hard_final.npy.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m r2former.precompute_mining -F logs/mine_global_streets_mini \
    with dataset.mini_rerank model.resnet_mini resume=logs/train_global_streets_mini/best_model.pth "$@"
