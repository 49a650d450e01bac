#!/usr/bin/env bash
# Generated streets, trains the global model of row "global": 11 minutes on 2 busy cores.
# Expected: see the table of r2former/README.md (measured with this code; nothing is published).
# Needs:    data/mini_streets/ (python -m data.make_mini streets).
# Writes:   logs/train_global_streets_mini/ with best_model.pth and last_model.pth.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m r2former.experiment_global -F logs/train_global_streets_mini \
    with dataset.mini_global model.resnet_mini criterion=in_batch optim=adamw lr=2e-3 \
    cos=True epochs_num=8 patience=8 autocast=True max_minutes=30 \
    save_dir=train_global_streets_mini "$@"
