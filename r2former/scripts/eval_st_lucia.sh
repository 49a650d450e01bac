#!/usr/bin/env bash
# R2Former trained on MSLS, row "St Lucia", global and reranked (Table 2).
# Expected: R@1 99.7; global R@1 94.3.
# Needs:    data/st_lucia/images/test/, r2former/r2former_ckpts/CVPR23_DeitS_Rerank.pth.
# Writes:   logs/eval_st_lucia/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m r2former.evaluate -F logs/eval_st_lucia \
    with dataset.st_lucia model.deit dataset.infer_batch_size=64 \
    resume=r2former/r2former_ckpts/CVPR23_DeitS_Rerank.pth row=eval_st_lucia \
    temp_dir=logs/eval_st_lucia "$@"
