#!/usr/bin/env bash
# R2Former finetuned on Pitts30k, row "Tokyo 24/7" (Table 1).
# Expected: R@1 88.6, R@5 91.4, R@10 91.7.
# Needs:    data/tokyo247/images/test/, logs/finetune_pitts30k/best_model.pth (finetune_pitts30k.sh).
# Writes:   logs/eval_tokyo247_finetuned/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m r2former.evaluate -F logs/eval_tokyo247_finetuned \
    with dataset.tokyo247 model.deit dataset.infer_batch_size=64 \
    resume=logs/finetune_pitts30k/best_model.pth row=eval_tokyo247_finetuned \
    temp_dir=logs/eval_tokyo247_finetuned "$@"
