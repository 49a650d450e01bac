#!/usr/bin/env bash
# R2Former trained on MSLS, row "R-SF", global and reranked (Table 2).
# Expected: R@1 72.1; global R@1 47.5.
# Needs:    data/san_francisco/images/test/, r2former/r2former_ckpts/CVPR23_DeitS_Rerank.pth.
# Writes:   logs/eval_rsf/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m r2former.evaluate -F logs/eval_rsf \
    with dataset.san_francisco model.deit dataset.infer_batch_size=64 \
    resume=r2former/r2former_ckpts/CVPR23_DeitS_Rerank.pth row=eval_rsf temp_dir=logs/eval_rsf \
    "$@"
