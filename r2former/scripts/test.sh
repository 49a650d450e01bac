#!/usr/bin/env bash
# The published command `test`: MSLS val, global and reranked, as eval_msls_val.sh.
# Needs:    data/msls/train_val/{cph,sf}/, r2former/r2former_ckpts/CVPR23_DeitS_Rerank.pth.
# Writes:   logs/test/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m r2former.evaluate -F logs/test \
    with dataset.msls model.deit dataset.infer_batch_size=256 \
    resume=r2former/r2former_ckpts/CVPR23_DeitS_Rerank.pth row=eval_msls_val \
    temp_dir=logs/test "$@"
