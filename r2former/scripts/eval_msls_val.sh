#!/usr/bin/env bash
# R2Former, row "MSLS val", global and reranked (Tables 1, 2, 4, 5).
# Expected: R@1 89.7, R@5 95.0, R@10 96.2;
#           global R@1 79.3, R@5 90.8, R@10 92.6.
# Needs:    data/msls/train_val/{cph,sf}/, r2former/r2former_ckpts/CVPR23_DeitS_Rerank.pth.
# Writes:   logs/eval_msls_val/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m r2former.evaluate -F logs/eval_msls_val \
    with dataset.msls model.deit dataset.infer_batch_size=64 \
    resume=r2former/r2former_ckpts/CVPR23_DeitS_Rerank.pth row=eval_msls_val \
    temp_dir=logs/eval_msls_val "$@"
