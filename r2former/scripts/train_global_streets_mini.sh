#!/usr/bin/env bash
# Generated streets, trains the global model of row "global": 15 minutes at most.
# Expected: measured with this code, see the README; nothing is published.
# Needs:    data/mini_streets/ (python -m data.make_mini streets).
# Writes:   logs/train_global_streets_mini/ with best_model.pth and last_model.pth.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m r2former.experiment_global -F logs/train_global_streets_mini \
    with dataset.mini_global model.deit_mini criterion=sare_joint optim=adamw lr=1e-3 \
    cos=True warmup=1 epochs_num=7 patience=7 max_minutes=15 \
    save_dir=train_global_streets_mini "$@"
