#!/usr/bin/env bash
# Generated streets, row "global, DeiT".
# Expected: R@1 16.50 (measured with this code; nothing is published).
# Needs:    data/mini_streets/ (python -m data.make_mini streets),
#           r2former/r2former_ckpts/mini_streets_deit.pth (tracked;
#           train_global_streets_deit_mini.sh makes it).
# Writes:   logs/eval_global_streets_deit_mini/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m r2former.evaluate -F logs/eval_global_streets_deit_mini \
    with dataset.mini_streets model.deit_mini rerank=False \
    resume=r2former/r2former_ckpts/mini_streets_deit.pth row=eval_global_streets_deit_mini \
    temp_dir=logs/eval_global_streets_deit_mini "$@"
