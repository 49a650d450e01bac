#!/usr/bin/env bash
# R2Former, global model of the first stage alone on MSLS val.
# Expected: nothing published for this file; the paper's global row is eval_msls_val.sh.
# Needs:    data/msls/train_val/{cph,sf}/, r2former/r2former_ckpts/msls_v2_deits.pth.
# Writes:   logs/eval_msls_val_global/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m r2former.evaluate -F logs/eval_msls_val_global \
    with dataset.msls model.deit dataset.infer_batch_size=64 rerank=False \
    resume=r2former/r2former_ckpts/msls_v2_deits.pth temp_dir=logs/eval_msls_val_global "$@"
