#!/usr/bin/env bash
# R2Former trained on MSLS, row "Pitts30k", global and reranked (Table 2).
# Expected: R@1 88.4; global R@1 76.3.
# Needs:    data/pitts30k/images/test/, r2former/r2former_ckpts/CVPR23_DeitS_Rerank.pth.
# Writes:   logs/eval_pitts30k/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m r2former.evaluate -F logs/eval_pitts30k \
    with dataset.pitts30k model.deit dataset.infer_batch_size=64 \
    resume=r2former/r2former_ckpts/CVPR23_DeitS_Rerank.pth row=eval_pitts30k \
    temp_dir=logs/eval_pitts30k "$@"
