#!/usr/bin/env bash
# R2Former trained on MSLS, row "Tokyo 24/7", global and reranked (Table 2).
# Expected: R@1 72.7; global R@1 45.7.
# Needs:    data/tokyo247/images/test/, r2former/r2former_ckpts/CVPR23_DeitS_Rerank.pth.
# Writes:   logs/eval_tokyo247/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m r2former.evaluate -F logs/eval_tokyo247 \
    with dataset.tokyo247 model.deit dataset.infer_batch_size=64 \
    resume=r2former/r2former_ckpts/CVPR23_DeitS_Rerank.pth row=eval_tokyo247 \
    temp_dir=logs/eval_tokyo247 "$@"
