#!/usr/bin/env bash
# R2Former finetuned on Pitts30k, row "Pitts30k" (Table 1).
# Expected: R@1 91.1, R@5 95.2, R@10 96.3.
# Needs:    data/pitts30k/images/test/, logs/finetune_pitts30k/best_model.pth (finetune_pitts30k.sh).
# Writes:   logs/eval_pitts30k_finetuned/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m r2former.evaluate -F logs/eval_pitts30k_finetuned \
    with dataset.pitts30k model.deit dataset.infer_batch_size=64 \
    resume=logs/finetune_pitts30k/best_model.pth row=eval_pitts30k_finetuned \
    temp_dir=logs/eval_pitts30k_finetuned "$@"
