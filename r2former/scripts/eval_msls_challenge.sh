#!/usr/bin/env bash
# R2Former, MSLS challenge: prediction files global.csv and rerank.csv (Tables 1, 2).
# Expected: no number here, the challenge's server scores the files.
# Needs:    data/msls/test/, r2former/r2former_ckpts/CVPR23_DeitS_Rerank.pth.
# Writes:   logs/eval_msls_challenge/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m r2former.evaluate -F logs/eval_msls_challenge \
    with dataset.msls_challenge model.deit dataset.infer_batch_size=64 \
    resume=r2former/r2former_ckpts/CVPR23_DeitS_Rerank.pth temp_dir=logs/eval_msls_challenge \
    "$@"
