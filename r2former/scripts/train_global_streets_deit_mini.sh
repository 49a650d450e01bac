#!/usr/bin/env bash
# Generated streets, trains the small DeiT of row "global, DeiT".
# Expected: see the table of r2former/README.md (measured with this code; nothing is published).
# Needs:    data/mini_streets/ (python -m data.make_mini streets).
# Writes:   logs/train_global_streets_deit_mini/ with best_model.pth and last_model.pth.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m r2former.experiment_global -F logs/train_global_streets_deit_mini \
    with dataset.mini_global model.deit_mini criterion=in_batch optim=adamw lr=1e-3 \
    warmup=1 cos=True epochs_num=10 patience=10 autocast=True \
    save_dir=train_global_streets_deit_mini "$@"
